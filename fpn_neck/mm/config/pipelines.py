"""Pipelines: the sizes that photos are fitted into, and what moves boxes or labels for good.

mmseg takes a prediction back to the photo by its mirroring and by one resize, mmdet by the scale
only. A label or box that another transform has moved stays where it is, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import getmro, isclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import METRICS, TRANSFORMS

from fpn_neck.datasets.check.masks import Scales
from fpn_neck.mm.config.types import framework, type_class
from fpn_neck.utils.walk import data_sets, dicts, type_name

_MOVING = {
    "mmseg": ("RandomRotate", "RandomRotFlip", "RandomMosaic"),
    "mmdet": (
        *("RandomFlip", "RandomCrop", "CenterCrop", "MinIoURandomCrop", "Expand", "RandomShift"),
        *("RandomAffine", "GeomTransform", "Rotate", "Mosaic", "MixUp", "CachedMixUp", "CopyPaste"),
        "RandomCenterCropPad",  # unless its test_mode is set, which CenterNet's heads undo
    ),
}
_RESHAPING = ("Pad", "RandomCrop", "CenterCrop")  # for mmseg, if they change the size
_BY_SAMPLES = ("VOCMetric", "Flickr30kMetric")  # judge by boxes as the pipeline leaves them
_REMEDIES = {
    "mmseg": "leave it out; model.data_preprocessor.test_cfg=dict(size_divisor=32) pads, and takes "
    "the padding off again",
    "mmdet": "leave it out",
}


def check_moving(pipeline: Sequence[Any], where: str, scope: str | None) -> None:
    """Refuse a transform that moves boxes or labels which nobody moves back.

    Args:
        pipeline: of photos to be evaluated or predicted.
        where: its place in the config.
        scope: 'mmseg' or 'mmdet'; others are not looked at.

    Raises:
        ValueError: names the transform.
    """
    for i, part in enumerate(pipeline):
        if not isinstance(part, Mapping) or part.get("prob") in (0, [0]) or part.get("test_mode"):
            continue
        names = _names(type_class(part, TRANSFORMS, scope))
        if any(name in names for name in _MOVING.get(scope or "", ())):
            raise ValueError(
                f"config: {where}[{i}] ({names[0]}) moves what a photo shows, and {scope} does not "
                f"move {'labels' if scope == 'mmseg' else 'boxes'} back: {_REMEDIES[scope or '']}"
            )


def reshaping(transform: Any) -> bool:
    """Whether a transform adds or removes parts of a photo, after which mmseg stretches labels."""
    return any(name in _RESHAPING for name in _names(type(transform)))


def stretched(transform: Any, before: Sequence[int], after: Sequence[int]) -> str:
    """What is wrong if a `reshaping` transform has changed a photo's size, (height, width)."""
    (height, width), (new_height, new_width) = before[:2], after[:2]
    return (
        f"{type(transform).__name__} of the pipeline makes {width}x{height} px {new_width}x"
        f"{new_height}, and mmseg stretches the labels back: {_REMEDIES['mmseg']}"
    )


def stretching(transforms: Sequence[Any], results: Mapping[str, Any]) -> str:
    """What is wrong with mmseg's labels or masks of a photo, '' if nothing is.

    Args:
        transforms: of the pipeline.
        results: what a data set knows of the photo.
    """
    passed: Any = dict(results)
    for transform in transforms:
        before = passed["img"].shape if reshaping(transform) and "img" in passed else None
        passed = transform(passed)
        if before and passed["img"].shape != before:
            return stretched(transform, before, passed["img"].shape)
    sample = passed["data_samples"]
    if "gt_sem_seg" not in sample or tuple(sample.gt_sem_seg.shape) == sample.ori_shape[:2]:
        return ""
    (height, width), (of_photo, across) = sample.gt_sem_seg.shape, sample.ori_shape[:2]
    return (
        f"the pipeline makes a mask of {width}x{height} px, and labels are judged at the photo's "
        f"{across}x{of_photo} px: put LoadAnnotations after what resizes photos"
    )


def check_evaluated(cfg: Config, split: str) -> None:
    """`check_moving` for the data sets of a split, and boxes that are resized before they judge.

    Raises:
        ValueError: names the transform.
    """
    scope, name = framework(cfg), f"{split}_dataloader"
    by_samples = _judges_by_samples(cfg, split, scope)
    for part in data_sets((cfg.get(name) or {}).get("dataset")):
        pipeline = part.get("pipeline") or []
        check_moving(pipeline, f"{name}.dataset.pipeline", scope)
        kinds = [_names(type_class(p, TRANSFORMS, scope)) for p in pipeline if "type" in p]
        loads = next((i for i, k in enumerate(kinds) if "LoadAnnotations" in k), len(kinds))
        late = [k[0] for k in kinds[loads:] if any("Resize" in base for base in k)]
        if by_samples and late:
            raise ValueError(
                f"config: {name}.dataset.pipeline: {late[0]} resizes the boxes by which "
                f"{by_samples} judges predictions at the photo's own size: put LoadAnnotations "
                f"after {late[0]}"
            )


def _judges_by_samples(cfg: Config, split: str, scope: str | None) -> str:
    metrics = (part for _, part in dicts(cfg.get(f"{split}_evaluator")) if "type" in part)
    names = [name for part in metrics for name in _names(type_class(part, METRICS, scope))]
    return next((name for name in names if name in _BY_SAMPLES), "")


def _names(kind: Any) -> list[str]:
    return [c.__name__ for c in getmro(kind)] if isclass(kind) else [""]


# ----------------------------------------------------------------------------------- sizes


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
