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

from fpn_neck.registry import METRICS

_VOID = -1


@METRICS.register_module()
class PanopticQualityMetric(BaseMetric):
    """PQ, SQ and RQ (Kirillov et al., CVPR 2019, arXiv:1801.00868), in percent, by torchmetrics.

    The things are the data set's classes; what no instance covers is the one stuff, whose label
    follows theirs; regions marked ``iscrowd`` are void. mmdet's ``CocoPanopticMetric`` needs a
    package that no registry has and panoptic PNG files.

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
            quality = self._quality()
            quality.update(found[None], self._truth(sample["img_id"])[None])
            sums = quality.iou_sum, quality.true_positives, quality.false_positives
            self.results.append(torch.stack([*sums, quality.false_negatives]).double())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        quality = self._quality()
        sums = torch.stack(results).sum(0)
        quality.iou_sum, quality.true_positives = sums[0], sums[1]
        quality.false_positives, quality.false_negatives = sums[2], sums[3]
        quality._update_called = True  # its states come from `process`, not from update
        values = 100 * quality.compute()[0]  # (classes, [PQ, SQ, RQ])
        counted = sums[1:].sum(0) > 0
        groups = {"": counted.clone(), "_th": counted.clone(), "_st": counted.clone()}
        groups["_th"][-1], groups["_st"][:-1] = False, False
        return {
            f"{name}{suffix}": round(float(values[chosen, i].mean()), 2) if chosen.any() else 0.0
            for suffix, chosen in groups.items()
            for i, name in enumerate(("PQ", "SQ", "RQ"))
        }

    def _quality(self) -> PanopticQuality:
        things = len(self.dataset_meta["classes"])
        return PanopticQuality(
            set(range(things)),
            {things},
            allow_unknown_preds_category=True,  # mmdet's void
            return_sq_and_rq=True,
            return_per_class=True,
        )

    def _truth(self, image_id: int) -> Tensor:
        """(H, W, 2): label and number of the instance at every pixel."""
        image = self._coco.imgs[image_id]
        labels = {c: i for i, c in enumerate(self._coco.getCatIds(self.dataset_meta["classes"]))}
        truth = np.zeros((image["height"], image["width"], 2), np.int64)
        truth[..., 0] = len(labels)  # stuff
        for number, instance in enumerate(self._coco.imgToAnns[image_id], 1):
            label = _VOID if instance["iscrowd"] else labels[instance["category_id"]]
            truth[self._coco.annToMask(instance) == 1] = label, number
        return torch.from_numpy(truth)
