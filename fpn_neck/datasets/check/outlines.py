"""Checks of instance outlines, polygons and RLE, as mmdet and pycocotools read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from reprlib import repr as short
from typing import Any

import numpy as np

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.kinds import Kind


def wrong_outline(
    outline: Any, size: tuple[Any, Any], box: Sequence[float] | None = None
) -> tuple[Kind, str] | None:
    """(kind, value) of what is wrong with a ``segmentation``; None if nothing is.

    Args:
        size: of its photo, (width, height) in px.
        box: of the object, (x, y, width, height) in px.
    """
    if not outline:
        return kinds.NO_OUTLINE, f"segmentation {outline}"
    if not isinstance(outline, dict):
        reason = _wrong_polygons(outline)
    elif different := wrong_size(outline, size):
        return kinds.MASK_SIZE, different
    else:
        reason = _wrong_runs(outline.get("counts"), size[0] * size[1])
    if reason:
        return kinds.OUTLINE, f"segmentation {short(outline)}: {reason}"
    if box is not None and isinstance(outline, list) and not _meets(outline, box):
        return kinds.OUTLINE_ELSEWHERE, f"segmentation {short(outline)}, bbox {list(box)}"
    return None


def wrong_size(outline: dict[str, Any], size: tuple[Any, Any]) -> str:
    """How the size of an RLE differs from its photo's, (width, height) in px; '' if it doesn't."""
    if outline.get("size") == [size[1], size[0]]:
        return ""
    shown = short(outline.get("size"))
    return f"segmentation size {shown} (height, width), photo {size[0]}x{size[1]}"


def _meets(polygons: list[list[float]], box: Sequence[float]) -> bool:
    """Whether polygons and box share an area, by the polygons' outermost points."""
    x, y, width, height = box
    for polygon in polygons:
        columns, rows = polygon[::2], polygon[1::2]
        across = min(max(columns), x + width) - max(min(columns), x)
        down = min(max(rows), y + height) - max(min(rows), y)
        if across > 0 and down > 0:
            return True
    return False


def _wrong_polygons(outline: Any) -> str:
    if not isinstance(outline, list):
        return f"a {type(outline).__name__}, not a list of polygons"
    for i, polygon in enumerate(outline):
        if not isinstance(polygon, list):
            return "expected a list of lists, one for each polygon"
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in polygon):
            return f"polygon {i} holds {short(polygon)}, not finite numbers"
        if len(polygon) < 6 or len(polygon) % 2:
            return f"polygon {i} has {len(polygon)} coordinates, expected x, y of 3 or more points"
    return ""


def _wrong_runs(counts: Any, pixels: int) -> str:
    if isinstance(counts, str):
        counts = _decode(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        return "counts are not run lengths"
    if sum(counts) != pixels:
        return f"counts sum to {sum(counts)}, expected height * width = {pixels}"
    return ""


def _decode(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed RLE; None if the text is not one.

    A character holds five bits of a number, lowest first, as an offset from "0"; its sixth bit says
    that the number goes on. From the fourth number on, the text holds differences to the number two
    places before (pycocotools' maskApi.c). pycocotools itself accesses memory outside of its
    buffers if the text is damaged.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    length = ends - starts + 1
    if length.max() > 7:  # above 32 bits
        return None
    place = np.arange(codes.size) - np.repeat(starts, length)
    numbers = np.add.reduceat((codes & 31) << 5 * place, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * length, 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers.tolist()
