"""The answer of every model for one photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fpn_neck.utils.pictures import OPACITY, Palette, default_palette
from fpn_neck.utils.results import coco
from fpn_neck.utils.results.drawing import draw
from fpn_neck.utils.results.supervision import to_supervision

if TYPE_CHECKING:
    import supervision

SCHEMA = 1  # of the JSON; it grows when a program that reads the JSON would have to change
SCORE_THR = 0.3
_ROWS = 256  # counted at a time: numpy takes 8 bytes a pixel for it


@dataclass(frozen=True)
class Segment:
    """A segment of a panoptic model.

    Attributes:
        number: its value in ``Result.segment_map``.
        class_id: index into ``Result.classes``.
        is_thing: whether it is one object; else it is all of a class, such as the sky.
        area: px.
    """

    number: int
    class_id: int
    is_thing: bool
    area: int


@dataclass(frozen=True, eq=False)
class Result:
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
        score_thr: objects with a lower score are in the arrays; they are not drawn, and not in
            ``areas``.
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
    def shown(self) -> Result:
        """The same result without objects whose score is below ``score_thr``."""
        if self.scores is None or self.boxes is None or self.class_ids is None:
            return self
        keep = self.scores >= self.score_thr
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

    def draw(self, *, side_by_side: bool | None = None, opacity: float = OPACITY) -> Image.Image:
        """The overlay: the photo with the prediction on it.

        Args:
            side_by_side: put the photo to the left. None: only if there are labels.
            opacity: of the colours of labels and masks, 0 to 1.
        """
        return draw(self.shown, side_by_side=side_by_side, opacity=opacity)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data: what `to_json` writes, without ``schema``."""
        height, width = self.size
        found: dict[str, Any] = {"photo": self.photo, "width": width, "height": height}
        if self.labels is not None or self.masks is not None:
            found["areas"] = self.areas
        if self.boxes is not None:
            found["objects"] = self._objects()
        if self.segments is not None:
            found["segments"] = [
                {
                    "id": segment.number,
                    "label": self.classes[segment.class_id],
                    "class": segment.class_id,
                    "thing": segment.is_thing,
                    "area": segment.area,
                }
                for segment in self.segments
            ]
        return found

    def to_json(self) -> str:
        """JSON with the number of its schema: size, areas, objects with masks as COCO's RLE, ..."""
        return json.dumps({"schema": SCHEMA, "classes": list(self.classes), **self.to_dict()})

    def to_coco(
        self, image_id: int = 1, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results: objects with ``bbox`` and ``segmentation``; of a panoptic model one dict.

        Labels of a segmenter give one mask per class, as COCO-Stuff has it.

        Args:
            image_id: the photo's in the COCO file.
            category_ids: {name: id} of the COCO file. None: index + 1.
        """
        return coco.results(self, image_id, category_ids)

    def to_supervision(self) -> supervision.Detections:
        """``supervision.Detections``: boxes, masks, scores, class names.

        Labels give one mask per class, segments one mask per segment.

        Raises:
            ImportError: supervision is not installed.
        """
        return to_supervision(self)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write all files of the result into a folder, as ``fpn-neck predict`` does.

        Args:
            name: of the files, without suffix; None: the photo's.

        Raises:
            OSError: they cannot be written.
        """
        from fpn_neck.utils.results.folder import ResultsFolder  # it takes results

        results = ResultsFolder(Path(folder), self.classes)
        results.add(self, name or (Path(self.photo).stem if self.photo else "photo"))
        results.finish()

    def _objects(self) -> list[dict[str, Any]]:
        """Best first; all of them, whatever the score."""
        assert self.boxes is not None and self.scores is not None and self.class_ids is not None
        rle = coco.encode(self.masks) if self.masks is not None else None
        found = []
        for i, (box, score, label) in enumerate(
            zip(self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True)
        ):
            one = {"label": self.classes[label], "class": label, "score": round(score, 4)}
            one["box"] = [round(x, 2) for x in box]
            found.append(one | ({"mask": rle[i]} if rle else {}))
        return found


def _counts(labels: np.ndarray, count: int) -> np.ndarray:
    counts = np.zeros(count, np.int64)
    for start in range(0, len(labels), _ROWS):
        strip = labels[start : start + _ROWS].ravel()
        counts += np.bincount(strip, minlength=count)[:count]
    return counts
