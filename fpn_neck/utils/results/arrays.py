"""What a model predicts for one photo, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fpn_neck.utils.results.options import SCORE_THR
from fpn_neck.utils.results.pictures import Palette, default_palette

_ROWS = 256  # counted at a time: numpy takes 8 bytes a pixel for it


@dataclass(frozen=True)
class Segment:
    """A segment of a panoptic model.

    Attributes:
        number: its value in ``Arrays.segment_map``.
        class_id: index into ``Arrays.classes``.
        is_thing: whether it is one object; else it is all of a class, such as the sky.
        area: px.
    """

    number: int
    class_id: int
    is_thing: bool
    area: int


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a model predicts for one photo; an array that the model does not predict is None.

    Attributes:
        image: the photo, uint8 (H, W, 3), RGB.
        classes: the names of all classes of the model; an index is a label.
        palette: RGB of every class; other colours if the model has none.
        photo: the photo's path; None for an array.
        labels: class of every pixel, whole numbers (H, W) at the photo's size. Of a panoptic
            model also ``len(classes)``, which means no class.
        first_value: what the masks of the data set hold for class 0: 1 with
            ``reduce_zero_label``. Label files have these values; ``labels`` begin with 0.
        boxes: float32 (n, 4), x1, y1, x2, y2 in px of the photo, best first.
        scores: float32 (n,), 0 to 1.
        class_ids: int64 (n,), index into ``classes`` for every box.
        masks: bool (n, H, W), the pixels of every object.
        segments: of a panoptic model.
        segment_map: int32 (H, W), the number of the segment of every pixel; 0 is none.
        score_thr: objects with this score or a lower one are in the arrays, but they are not
            drawn, and not counted in ``areas``.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    palette: Palette = ()
    photo: str | None = None
    labels: np.ndarray | None = None
    first_value: int = 0
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    masks: np.ndarray | None = None
    segments: tuple[Segment, ...] | None = None
    segment_map: np.ndarray | None = None
    score_thr: float = SCORE_THR

    def __post_init__(self) -> None:
        if len(self.palette) < len(self.classes):
            object.__setattr__(self, "palette", default_palette(len(self.classes)))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photo in px."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def shown(self) -> Arrays:
        """The same result with the objects whose score is above ``score_thr``."""
        if self.scores is None or self.boxes is None or self.class_ids is None:
            return self
        keep = self.scores > self.score_thr  # as mmdet draws
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            class_ids=self.class_ids[keep],
            masks=None if self.masks is None else self.masks[keep],
        )

    @property
    def areas(self) -> dict[str, int]:
        """Px of every class that occurs, {name: px}; {} if the model predicts only boxes.

        Objects of one class that overlap count once.
        """
        if self.labels is not None:
            counts = _counts(self.labels, len(self.classes))
        elif self.masks is not None and self.class_ids is not None:
            counts = np.zeros(len(self.classes), np.int64)
            shown = self.shown
            assert shown.masks is not None and shown.class_ids is not None
            for label in np.unique(shown.class_ids):
                counts[label] = shown.masks[shown.class_ids == label].any(0).sum()
        else:
            return {}
        return {self.classes[i]: int(counts[i]) for i in np.flatnonzero(counts)}


def _counts(labels: np.ndarray, count: int) -> np.ndarray:
    counts = np.zeros(count, np.int64)
    for start in range(0, len(labels), _ROWS):
        strip = labels[start : start + _ROWS].ravel()
        counts += np.bincount(strip, minlength=count)[:count]
    return counts
