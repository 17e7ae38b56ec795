"""Strides that a detector's heads declare, against the sizes of the maps that they get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, sqrt
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from torch import nn

from fpn_neck.models.pyramid_backbone import image_channels
from fpn_neck.utils.modes import evaluating

_SIDE = 256  # px
_FACTOR = sqrt(2)  # YOLACT declares 7.97 for 8; a level too fine or too coarse is 2


def check_prior_strides(model: Any) -> None:
    """Refuse a detector whose anchors or regions lie elsewhere than what its maps show.

    mmdet takes ``strides`` and ``featmap_strides`` as they are given. With those of another level
    it trains without a word, with anchors in a corner of the photo or features of other places.

    Args:
        model: as a Runner has built it; anything but a detector with a backbone passes.

    Raises:
        ValueError: names the setting, its value and what the maps say.
    """
    model = getattr(model, "module", model)
    if not isinstance(model, BaseDetector) or not hasattr(model, "backbone"):
        return
    declared = list(_declared(model))
    maps = _sizes(model) if declared else ()
    for name, strides in declared:
        if not all(_is_near(stride, size) for stride, size in zip(strides, maps, strict=False)):
            actual = [_SIDE / size for size in maps[: len(strides)]]
            shown = [round(stride) for stride in actual]
            raise ValueError(
                f"config: model.{name}={strides}, but the maps of backbone and neck have strides "
                f"{shown}: set them to {shown}, or change the neck's start_level"
            )


def _is_near(stride: float, size: int) -> bool:
    """Whether a map of that many cells may have the stride; their number is a rounded one."""
    largest = _SIDE / (size - 1) if size > 1 else inf
    return _SIDE / (size + 1) / _FACTOR < stride < largest * _FACTOR


def _declared(model: BaseDetector) -> Iterator[tuple[str, list[float]]]:
    """Place and strides of every generator of anchors or points, and of what cuts regions."""
    for head in ("rpn_head", "bbox_head"):
        generator = getattr(getattr(model, head, None), "prior_generator", None)
        strides = getattr(generator, "strides", None)
        if isinstance(strides, Sequence):
            widths = [s[0] if isinstance(s, Sequence) else s for s in strides]
            yield f"{head}: strides of anchors or points", widths
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        found = getattr(getattr(model, "roi_head", None), name, None)
        for part in found if isinstance(found, nn.ModuleList) else [found]:
            strides = getattr(part, "featmap_strides", None)
            if isinstance(strides, Sequence):
                yield f"roi_head.{name}.featmap_strides", list(strides)


@torch.no_grad()
def _sizes(model: BaseDetector) -> Sequence[int]:
    """The widths of the maps of a square image; () if the detector takes more than an image."""
    device = next(model.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    try:
        with evaluating(model), torch.random.fork_rng(devices=cuda):
            image = torch.zeros(1, image_channels(model.backbone), _SIDE, _SIDE, device=device)
            maps = model.extract_feat(image)
            return [x.shape[-1] for x in maps]
    except Exception:  # of any detector; its first step tells it
        return ()
