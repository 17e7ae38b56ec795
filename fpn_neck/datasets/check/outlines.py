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
        reason = wrong_polygons(outline)
    elif different := wrong_size(outline, size):
        return kinds.MASK_SIZE, different
    else:
        reason = _wrong_runs(outline.get("counts"), size[0] * size[1])
    if reason:
        return kinds.OUTLINE, f"segmentation {short(outline)}: {reason}"
    if box is not None and not _meets(_extents(outline, size[1]), box):
        return kinds.OUTLINE_ELSEWHERE, f"segmentation {short(outline)}, bbox {list(box)}"
    return None


def is_ignored(outline: Any, *, polygons_only: bool = False) -> bool:
    """Whether mmdet's ``LoadAnnotations(with_mask=True)`` ignores a box for its outline.

    Args:
        polygons_only: the transform has ``poly2mask=False``.
    """
    if isinstance(outline, list):
        return not any(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in outline)
    if not isinstance(outline, dict):
        return False  # it fails by name
    return polygons_only or not (
        outline.get("size") is not None and isinstance(outline.get("counts"), (list, str))
    )


def wrong_size(outline: dict[str, Any], size: tuple[Any, Any]) -> str:
    """How the size of an RLE differs from its photo's, (width, height) in px; '' if it doesn't."""
    if outline.get("size") == [size[1], size[0]]:
        return ""
    shown = short(outline.get("size"))
    return f"segmentation size {shown} (height, width), photo {size[0]}x{size[1]}"


Extent = tuple[float, float, float, float]  # left, top, right, bottom in px


def polygons_extent(polygons: Sequence[Sequence[float]]) -> Extent:
    """The outermost points of all polygons."""
    columns = [x for polygon in polygons for x in polygon[::2]]
    rows = [y for polygon in polygons for y in polygon[1::2]]
    return min(columns), min(rows), max(columns), max(rows)


def _extents(outline: Any, height: int) -> list[Extent]:
    """Of each polygon, or of an RLE's pixels; none if there is no pixel."""
    if isinstance(outline, list):
        return [polygons_extent([polygon]) for polygon in outline]
    counts = outline["counts"]
    runs = _decode(counts) if isinstance(counts, str) else counts
    ends = np.cumsum(np.array(runs))
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs of ones, column by column
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not starts.size:
        return []
    left, right = starts[0] // height, (ends[-1] - 1) // height + 1
    whole = (starts // height != (ends - 1) // height).any()  # a run goes on in the next column
    top = 0 if whole else (starts % height).min()
    bottom = height if whole else ((ends - 1) % height).max() + 1
    return [(int(left), int(top), int(right), int(bottom))]


def _meets(extents: Sequence[Extent], box: Sequence[float]) -> bool:
    """Whether any of them shares an area with the box."""
    x, y, width, height = box
    return any(
        min(right, x + width) > max(left, x) and min(bottom, y + height) > max(top, y)
        for left, top, right, bottom in extents
    )


def wrong_polygons(outline: Any) -> str:
    """What is wrong with a list of polygons; '' if nothing is."""
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
