"""mmseg's IoU, with means over the labels that occur in the truth; the same of super-classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmseg.evaluation import IoUMetric

from fpn_neck.mm.registry import METRICS
from fpn_neck.utils.values import check_whole


@METRICS.register_module()
class OccurringIoUMetric(IoUMetric):
    """mmseg's IoUMetric, with means over the labels that occur in the truth.

    mmseg's ``mIoU`` also counts a label that is not in the truth, with IoU 0, if it was predicted
    for one pixel. This metric adds ``mIoU_occurring`` (labels with a pixel in the truth, in
    percent), ``mIoU_foreground`` (the same without ``background``) and ``num_occurring``.

    Args:
        background: index of the label of pixels without an object.
        **kwargs: mmseg's ``IoUMetric``.
    """

    def __init__(self, background: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.background = check_whole("background", background, 0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        areas = [np.sum([np.asarray(r[i], np.float64) for r in results], 0) for i in (0, 1, 3)]
        intersection, union, truth = areas  # (K,) pixels each
        occurs = np.flatnonzero(truth)
        iou = 100 * intersection[occurs] / union[occurs]
        return OrderedDict(
            metrics,
            mIoU_occurring=round(float(iou.mean()), 2),
            mIoU_foreground=round(float(iou[occurs != self.background].mean()), 2),
            num_occurring=float(len(occurs)),  # mmengine's JSON leaves whole numbers out
        )


@METRICS.register_module()
class SuperClassIoUMetric(OccurringIoUMetric):
    """`OccurringIoUMetric` of super-classes, from the same predictions.

    The labels of truth and prediction are merged before they are compared. The names of the
    metrics begin with ``super/``. The data set's metainfo names the super-classes, each with its
    labels: ``super_classes={'shoes': ('boots', 'heels'), ...}``, as `ClothingDataset` does.

    Raises:
        ValueError: the metainfo has no super-classes, or a label is not in exactly one of them.
    """

    default_prefix = "super"
    _table: torch.Tensor  # label -> super-class, int64 (K,)

    @property
    def dataset_meta(self) -> Any:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: Mapping[str, Any]) -> None:
        names, labels = list(meta["classes"]), meta.get("super_classes") or {}
        if sorted(label for group in labels.values() for label in group) != sorted(names):
            raise ValueError(
                f"metainfo super_classes={labels}: SuperClassIoUMetric needs every label of the "
                "data set in exactly one of them; leave the metric out for other data sets"
            )
        self._table = torch.zeros(len(names), dtype=torch.int64)
        for i, group in enumerate(labels.values()):
            self._table[[names.index(label) for label in group]] = i
        self._dataset_meta = {**meta, "classes": tuple(labels)}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        super().process(data_batch, [self._merged(sample) for sample in data_samples])

    def _merged(self, sample: dict) -> dict:
        maps = {}
        for name in ("pred_sem_seg", "gt_sem_seg"):
            labels, table = sample[name]["data"].long(), self._table
            merged = table.to(labels.device)[labels.clamp(0, len(table) - 1)]
            known = (labels >= 0) & (labels < len(table))  # not those of ignored pixels
            maps[name] = {"data": torch.where(known, merged, labels)}
        return {**sample, **maps}
