"""Checks of instance outlines, polygons and RLE, as mmdet and pycocotools read them."""

from __future__ import annotations

import math
from reprlib import repr as short
from typing import Any

import numpy as np

NO_OUTLINE = "box without its object's outline, which training reads"
OUTLINE = "outline is neither polygons nor RLE as pycocotools reads them"
MASK_SIZE = "instance mask and photo differ in size"
REMEDY = {
    NO_OUTLINE: "draw it (segmentation), or remove the box, or take a detector of boxes alone",
    OUTLINE: (
        "write segmentation as [[x1, y1, x2, y2, x3, y3, ...], ...], or as pycocotools.mask.encode "
        "gives it, or remove the box"
    ),
    MASK_SIZE: "make the mask at the photo's own size",
}


def wrong_outline(outline: Any, size: tuple[Any, Any]) -> tuple[str, str]:
    """(kind, value) of what is wrong with a ``segmentation``; ("", "") if nothing is.

    Args:
        size: of its photo, (width, height) in px.
    """
    if not outline:
        return NO_OUTLINE, f"segmentation {outline}"
    if isinstance(outline, dict):
        if outline.get("size") != [size[1], size[0]]:
            shown = short(outline.get("size"))
            return (
                MASK_SIZE,
                f"segmentation size {shown} (height, width), photo {size[0]}x{size[1]}",
            )
        reason = _wrong_runs(outline.get("counts"), size[0] * size[1])
    else:
        reason = _wrong_polygons(outline)
    return (OUTLINE, f"segmentation {short(outline)}: {reason}") if reason else ("", "")


def _wrong_polygons(outline: Any) -> str:
    if not isinstance(outline, list):
        return f"a {type(outline).__name__}, not a list of polygons"
    for i, polygon in enumerate(outline):
        if not isinstance(polygon, list):
            return "a list of lists is wanted, one for each polygon"
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in polygon):
            return f"polygon {i} holds {short(polygon)}, not finite numbers"
        if len(polygon) < 6 or len(polygon) % 2:
            return f"polygon {i} has {len(polygon)} coordinates, wanted x, y of 3 points or more"
    return ""


def _wrong_runs(counts: Any, pixels: int) -> str:
    if isinstance(counts, str):
        counts = _decode(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        return "counts are no run lengths"
    if sum(counts) != pixels:
        return f"counts sum to {sum(counts)}, wanted height * width = {pixels}"
    return ""


def _decode(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed RLE; None if it is none.

    Five bits a character, the lowest first, from "0" on; a sixth says that more follow. From the
    fourth number on, differences to the one before the last are written (pycocotools' maskApi.c).
    pycocotools itself reads and writes past its memory where the text is spoilt.
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
