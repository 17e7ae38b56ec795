"""Transforms of photos and label maps together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from fpn_neck.mm.registry import TRANSFORMS
from fpn_neck.utils.values import check_share, check_whole


@TRANSFORMS.register_module()
class PasteRareLabels(BaseTransform):
    """Copies the pixels of rare labels from another photo over this one, at the same place.

    Simple copy-paste (Ghiasi et al., CVPR 2021) for label maps. It belongs in the pipeline of
    ``mmseg.MultiImageMixDataset``, after a pipeline that loads, resizes and crops both photos. Rare
    labels are drawn evenly, then one of the photos that hold the label. At its first call it reads
    all label maps of the data set.

    Args:
        max_photos: a label is rare if at most this many photos of the data set hold it.
        prob: share of photos that get something.

    Raises:
        ValueError: no label of the data set is rare.
    """

    def __init__(self, max_photos: int, prob: float = 0.5) -> None:
        self.max_photos = check_whole("max_photos", max_photos, 1)
        self.prob = check_share("prob", prob)
        self._photos: dict[int, list[int]] = {}  # rare label -> indices of its photos

    def get_indices(self, dataset: Any) -> list[int]:
        """Which photo to copy from: one index, or none."""
        self._photos = self._photos or self._find_rare(dataset)
        if np.random.rand() >= self.prob:
            return []
        label = list(self._photos)[np.random.randint(len(self._photos))]
        return [self._photos[label][np.random.randint(len(self._photos[label]))]]

    def transform(self, results: dict) -> dict:
        for other in results.get("mix_results", ()):
            self._paste(results, other)
        return results

    def _paste(self, results: dict, other: dict) -> None:
        rows, columns = np.minimum(results["img"].shape[:2], other["img"].shape[:2])
        labels = other["gt_seg_map"][:rows, :columns]
        rare = np.isin(labels, list(self._photos))
        for name in ("img", "gt_seg_map"):
            pasted = results[name].copy()
            pasted[:rows, :columns][rare] = other[name][:rows, :columns][rare]
            results[name] = pasted

    def _find_rare(self, dataset: Any) -> dict[int, list[int]]:
        photos: dict[int, list[int]] = {}
        for i in range(len(dataset)):
            for label in labels_of(dataset.get_data_info(i)):
                photos.setdefault(label, []).append(i)
        rare = {k: v for k, v in sorted(photos.items()) if len(v) <= self.max_photos}
        if not rare:
            raise ValueError(
                f"max_photos={self.max_photos}: every label is in more photos of the data set; "
                f"the rarest one is in {min(map(len, photos.values()), default=0)}"
            )
        return rare

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_photos={self.max_photos}, prob={self.prob})"


def labels_of(info: dict[str, Any]) -> Sequence[int]:
    """The labels in the mask of a data set's photo, as its pipeline gives them."""
    with Image.open(info["seg_map_path"]) as mask:
        values = np.unique(np.asarray(mask))
    if info.get("reduce_zero_label"):
        values = values[(values > 0) & (values < 255)] - 1
    renamed = info.get("label_map") or {}
    return sorted({renamed.get(int(value), int(value)) for value in values} - {255})
