"""Results as plain data, for JSON."""

from __future__ import annotations

from typing import Any

from fpn_neck.utils.results import coco
from fpn_neck.utils.results.arrays import Arrays

SCHEMA = 1  # of the JSON; it grows when a program that reads the JSON would have to change


def plain(result: Arrays) -> dict[str, Any]:
    """See `fpn_neck.utils.results.result.Result.to_dict`."""
    height, width = result.size
    found: dict[str, Any] = {"photo": result.photo, "width": width, "height": height}
    if result.labels is not None or result.masks is not None:
        found["areas"] = result.areas
    if result.boxes is not None:
        found |= {"objects": _objects(result), "score_thr": result.score_thr}
    if result.segments is not None:
        found["segments"] = [
            {
                "id": segment.number,
                "label": result.classes[segment.class_id],
                "class": segment.class_id,
                "thing": segment.is_thing,
                "area": segment.area,
            }
            for segment in result.segments
        ]
    return found


def _objects(result: Arrays) -> list[dict[str, Any]]:
    """Best first; all of them, whatever the score."""
    assert result.boxes is not None and result.scores is not None and result.class_ids is not None
    rle = coco.encode(result.masks) if result.masks is not None else None
    found = []
    for i, (box, score, label) in enumerate(
        zip(result.boxes.tolist(), result.scores.tolist(), result.class_ids.tolist(), strict=True)
    ):
        one = {"label": result.classes[label], "class": label, "score": round(score, 4)}
        one["box"] = [round(x, 2) for x in box]
        found.append(one | ({"mask": rle[i]} if rle else {}))
    return found
