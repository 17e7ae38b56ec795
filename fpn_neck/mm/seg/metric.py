"""mmseg's IoU, with means over the labels that occur in the truth."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from fpn_neck.mm.registry import METRICS
from fpn_neck.utils.arguments import check_whole


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
