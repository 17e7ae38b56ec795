"""What a test run of a segmenter finds, label by label and photo by photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fpn_neck.mm.photos import picture_in
from fpn_neck.mm.seg.report.confusion import Confusion


class PhotoResult(NamedTuple):
    """A photo with its labels.

    Attributes:
        score: mean IoU over the labels in its truth, 0 to 1.
        accuracy: share of its pixels with the right label, 0 to 1.
        photo: uint8 (H, W, 3), RGB.
        truth, prediction: labels (H, W).
    """

    score: float
    accuracy: float
    path: str
    photo: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class EvaluationHook(Hook):
    """Counts pixels by true and predicted label, and keeps the best and the worst photos.

    Pixels that the run's first metric ignores by ``ignore_index`` are left out, and so is a photo
    whose truth holds nothing else.

    Args:
        keep: how many photos of each kind.

    Attributes:
        confusion: of all photos.
        best, worst: at most ``keep`` photos each, the most extreme one first.
        metrics: what the run's metrics say.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.best: list[PhotoResult] = []
        self.worst: list[PhotoResult] = []
        self.metrics: dict[str, float] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        dataset = runner.test_loop.dataloader.dataset
        self.classes: Sequence[str] = dataset.metainfo["classes"]
        self.palette: Sequence[Sequence[int]] = dataset.metainfo["palette"]
        self.confusion = Confusion(len(self.classes))
        metrics = runner.test_loop.evaluator.metrics
        ignored = (metric.ignore_index for metric in metrics if hasattr(metric, "ignore_index"))
        self._ignore_index = next(ignored, None)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for sample in outputs:
            self._add(runner.test_loop.dataloader.dataset, sample)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})

    def _add(self, dataset: Any, sample: Any) -> None:
        truth, prediction = (
            segments.data[0].cpu().numpy() for segments in (sample.gt_sem_seg, sample.pred_sem_seg)
        )
        found = Confusion.of(truth, prediction, len(self.classes), self._ignore_index)
        if not found.occurs.any():
            return
        self.confusion.add(found)
        if not self.keep:
            return
        score = found.mean_iou
        for kept, sign in ((self.best, -1), (self.worst, 1)):
            if len(kept) == self.keep and sign * score >= sign * kept[-1].score:
                continue
            photo = picture_in(dataset, sample.img_path)
            kept.append(
                PhotoResult(score, found.accuracy, sample.img_path, photo, truth, prediction)
            )
            kept.sort(key=lambda result: sign * result.score)
            del kept[self.keep :]
