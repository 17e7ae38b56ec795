"""Panoptic quality of mmdet's panoptic detectors, on data whose COCO file holds instance masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from pycocotools.coco import COCO
from torch import Tensor
from torchmetrics.detection import PanopticQuality

from fpn_neck.mm.registry import METRICS

_IGNORED = -1  # no category: torchmetrics' void


@METRICS.register_module()
class PanopticQualityMetric(BaseMetric):
    """PQ, SQ and RQ (Kirillov et al., CVPR 2019, arXiv:1801.00868), in percent.

    torchmetrics matches the segments. The things are the data set's classes. There is one stuff
    label, the number after theirs: the pixels that no instance covers. Regions marked ``iscrowd``
    and instances of other categories are void. mmdet's ``CocoPanopticMetric`` needs panoptic PNG
    files and a package that is not on PyPI.

    Args:
        ann_file: COCO file with the instances of every photo.
        **kwargs: mmengine's ``BaseMetric``.
    """

    default_prefix = "coco_panoptic"

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._coco = COCO(ann_file)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the segments of every sample; its ``pred_panoptic_seg`` is at photo size."""
        for sample in data_samples:
            found = sample["pred_panoptic_seg"]["sem_seg"][0].cpu().long()
            # Below INSTANCE_OFFSET lies the label, above it the number of the instance.
            found = torch.stack([found % INSTANCE_OFFSET, found // INSTANCE_OFFSET], -1)
            quality = PanopticQuality(self._things | {self._void}, {self._stuff})
            quality.update(found[None], self._truth(sample["img_id"])[None])
            positives = quality.true_positives, quality.false_positives
            sums = torch.stack([quality.iou_sum, *positives, quality.false_negatives]).double()
            # Columns: the things, the predicted void, the stuff.
            self.results.append(torch.cat([sums[:, : self._stuff], sums[:, -1:]], 1))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        iou, tp, fp, fn = torch.stack(results).sum(0)  # (classes,) each
        counted = tp + fp + fn > 0
        sq = iou / tp.clamp(min=1)
        rq = tp / (tp + fp / 2 + fn / 2).clamp(min=0.5)
        values = {"PQ": sq * rq, "SQ": sq, "RQ": rq}  # the paper's equation 2
        is_stuff = torch.arange(len(iou)) == len(iou) - 1
        groups = {"": counted, "_th": counted & ~is_stuff, "_st": counted & is_stuff}
        return {
            f"{name}{suffix}": round(100 * float(value[group].mean()), 2) if group.any() else 0.0
            for suffix, group in groups.items()
            for name, value in values.items()
        }

    @property
    def _stuff(self) -> int:
        return len(self.dataset_meta["classes"])

    @property
    def _things(self) -> set[int]:
        return set(range(self._stuff))

    @property
    def _void(self) -> int:
        """mmdet's label of pixels without a segment.

        It counts as a thing that the truth never holds. As void, torchmetrics would leave these
        pixels of the prediction out of the union, which would raise the IoU of the truth there.
        """
        return self._stuff + 1

    def _truth(self, image_id: int) -> Tensor:
        """(H, W, 2): label and number of the instance at every pixel."""
        image = self._coco.imgs[image_id]
        labels = {
            category: label
            for label, category in enumerate(self._coco.getCatIds(self.dataset_meta["classes"]))
        }
        truth = np.zeros((image["height"], image["width"], 2), np.int64)
        truth[..., 0] = self._stuff
        # Crowds lie under the objects, as in training.
        instances = sorted(self._coco.imgToAnns[image_id], key=lambda one: not one["iscrowd"])
        for number, instance in enumerate(instances, 1):
            label = labels.get(instance["category_id"], _IGNORED)
            label = _IGNORED if instance["iscrowd"] else label
            truth[self._coco.annToMask(instance) == 1] = label, number
        return torch.from_numpy(truth)
