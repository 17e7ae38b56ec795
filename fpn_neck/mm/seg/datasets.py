"""This package's data sets under mmseg's interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset

from fpn_neck.datasets import clothing, shapes
from fpn_neck.datasets.own.pairs import SPLITS, split_pairs
from fpn_neck.mm.registry import DATASETS
from fpn_neck.utils.results.pictures import default_palette
from fpn_neck.utils.values import check_choice


@DATASETS.register_module()
class ClothingDataset(BaseSegDataset):
    """Kaggle's "People Clothing Segmentation" (CCP), see `fpn_neck.datasets.clothing`.

    Args:
        split: 'train', 'val' or 'all', see `clothing.split_of`; 'choosing' or 'reporting', the
            halves of 'val', see `clothing.half_of`.
        **kwargs: mmseg's ``BaseSegDataset``; ``data_root`` is the folder with ``labels.csv``.

    Raises:
        ValueError: the split is unknown, there are no photos, or a photo has no mask.
    """

    METAINFO: dict[str, Any] = {
        "classes": clothing.CLASSES,
        "palette": clothing.PALETTE,
        "super_classes": clothing.SUPER_CLASSES,
    }

    def __init__(self, split: str, **kwargs: Any) -> None:
        self.split = check_choice("split", split, clothing.SPLITS)
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return _data_list(self, clothing.find_pairs(self.data_root, self.split))


@DATASETS.register_module()
class NineClothingDataset(ClothingDataset):
    """`ClothingDataset` with the nine super-classes as labels, see `clothing.SUPER_CLASSES`."""

    METAINFO: dict[str, Any] = {
        "classes": tuple(clothing.SUPER_CLASSES),
        "palette": clothing.SUPER_PALETTE,
        "super_classes": {name: (name,) for name in clothing.SUPER_CLASSES},
    }

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Label of the mask files -> super-class."""
        if new_classes and tuple(new_classes) != cls.METAINFO["classes"]:
            raise ValueError(f"metainfo classes={new_classes}: the super-classes are fixed")
        return dict(enumerate(clothing.SUPER_OF))


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """The generated scenes of `fpn_neck.datasets.shapes`; ``split`` is 'train' or 'val'.

    Raises:
        ValueError: the split is unknown.
    """

    METAINFO = {"classes": shapes.CLASSES, "palette": shapes.PALETTE}

    def __init__(self, split: str, **kwargs: Any) -> None:
        check_choice("split", split, shapes.SPLITS)
        prefix = {"img_path": f"{split}/images", "seg_map_path": f"{split}/labels"}
        super().__init__(data_prefix=prefix, **kwargs)


@DATASETS.register_module()
class FoldersDataset(BaseSegDataset):
    """Your photos and masks: a mask has its photo's path in another folder, with its own suffix.

    Args:
        images: folder of photos, of any suffix.
        masks: folder of masks; their pixels are labels 0..K-1, or 255 to be ignored.
        split: 'train', 'val' (one photo in eight, by the names) or 'all'.
        **kwargs: mmseg's ``BaseSegDataset``; ``metainfo=dict(classes=...)`` names the labels, which
            get `default_palette`'s colours unless it has a ``palette``.

    Raises:
        ValueError: a photo has no mask, a folder is empty, or the split is unknown.
    """

    def __init__(self, images: str, masks: str, split: str, **kwargs: Any) -> None:
        self.images, self.masks = Path(images), Path(masks)
        self.split = check_choice("split", split, SPLITS)
        about = kwargs.get("metainfo") or {}
        if "classes" in about:  # mmseg's colours are random, and may look the same
            kwargs["metainfo"] = {"palette": default_palette(len(about["classes"])), **about}
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return _data_list(self, split_pairs(self.images, self.masks, self.split))


def _data_list(dataset: BaseSegDataset, pairs: Iterable[tuple[Path, Path]]) -> list[dict]:
    """mmseg's entries of photos with their masks."""
    common = {
        "label_map": dataset.label_map,
        "reduce_zero_label": dataset.reduce_zero_label,
        "seg_fields": [],
    }
    return [{"img_path": str(photo), "seg_map_path": str(mask)} | common for photo, mask in pairs]
