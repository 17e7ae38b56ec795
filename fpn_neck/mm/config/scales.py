"""The sizes that a pipeline fits photos into, before anything else changes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fpn_neck.datasets.check.masks import Scales
from fpn_neck.utils.walk import type_name


def first_scales(pipeline: Sequence[Any]) -> Scales:
    """(long, short) sides in px of the first resize that keeps the ratio, the smallest ones.

    () if something else may change a photo before it, or the sizes are not known.
    """
    for transform in pipeline:
        if not isinstance(transform, Mapping):
            return ()
        if not type_name(transform).startswith("Load"):
            return tuple(_scales(transform)) if transform.get("keep_ratio") else ()
    return ()


def _scales(transform: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Of mmcv's Resize, RandomResize and RandomChoiceResize, and mmdet's and mmseg's."""
    name = type_name(transform)
    if name == "Resize":
        yield from _sides(transform.get("scale"))
    elif name == "RandomChoiceResize":
        for scale in transform.get("scales") or ():
            yield from _sides(scale)
    elif name == "RandomResize":
        scale, ratios = transform.get("scale"), transform.get("ratio_range")
        if not ratios and isinstance(scale, (list, tuple)):  # between two scales
            pairs = [sides for one in scale for sides in _sides(one)]
            yield from [tuple(map(min, zip(*pairs, strict=True)))] if len(pairs) == 2 else ()
        elif ratios:
            yield from ((long * min(ratios), short * min(ratios)) for long, short in _sides(scale))


def _sides(scale: Any) -> Iterator[tuple[float, float]]:
    is_pair = isinstance(scale, (list, tuple)) and len(scale) == 2
    if is_pair and all(isinstance(n, (int, float)) and n > 0 for n in scale):
        yield max(scale), min(scale)
