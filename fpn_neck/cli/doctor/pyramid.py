"""The pyramid that a backbone and a neck make, as a table; nothing is computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import torch
from torch import Tensor, nn

_PROBE = 1024  # px, a whole number of cells at every stride


class Level(NamedTuple):
    """One map: stride in image pixels, size (height, width) in cells, and where it comes from."""

    name: str
    stride: int
    channels: int
    size: tuple[int, int]
    source: str


class ChannelsDiffer(ValueError):
    """A neck's ``in_channels`` are not what it is given."""

    def __init__(self, declared: Sequence[int], given: Sequence[int]) -> None:
        super().__init__(f"neck.in_channels={list(declared)}, and the backbone gives {given}")
        self.given = given


@torch.no_grad()
def pyramid(
    backbone: nn.Module, neck: nn.Module | None, size: tuple[int, int]
) -> tuple[list[Level], list[Level]]:
    """What the backbone gives, C2, C3, ..., and what the neck makes of it, P2, P3, ...

    Strides are measured on an image whose sides every stride divides.

    Args:
        backbone: images (N, 3, H, W) -> maps, finest first; on the meta device.
        neck: maps -> maps, a sequence of such, or None.
        size: (height, width) of the image in px.

    Raises:
        ChannelsDiffer: see there.
        Exception: whatever backbone and neck raise for an image of this size.
    """
    if neck is None and hasattr(backbone, "backbone") and hasattr(backbone, "neck"):
        backbone, neck = backbone.backbone, backbone.neck  # a PyramidBackbone
    images = [torch.empty(1, 3, *sides, device="meta") for sides in ((_PROBE, _PROBE), size)]
    probe, maps = (_apply(backbone, image) for image in images)
    source = getattr(backbone, "model_name", type(backbone).__name__)
    given = made = _levels("C", probe, maps, [source] * len(maps))
    for part in neck if isinstance(neck, nn.Sequential) else [neck] if neck else []:
        declared, channels = getattr(part, "in_channels", None), [m.shape[1] for m in maps]
        if isinstance(declared, Sequence) and list(declared) != channels:
            raise ChannelsDiffer(declared, channels)
        probe, maps = _apply(part, probe), _apply(part, maps)
        if hasattr(part, "indices"):  # SelectLevels
            made = [made[i] for i in part.indices]
            continue
        made = _levels("P", probe, maps, [type(part).__name__] * len(maps))
        if type(part).__name__ == "FPN" and hasattr(part, "lateral_convs"):
            sources = fpn_sources(part, [level.name for level in given], made[0].name)
            made = [level._replace(source=s) for level, s in zip(made, sources, strict=True)]
    return given, made if neck else []


def fpn_sources(neck: nn.Module, inputs: Sequence[str], finest: str) -> list[str]:
    """Where every level comes from, e.g. 'C3 lateral + P4', 'max pool of P5', 'conv of C5'.

    Args:
        neck: our FPN, mmdet's or mmseg's.
        inputs: names of the backbone's maps.
        finest: name of the finest level.
    """
    used = list(inputs[neck.start_level :])[: len(neck.lateral_convs)]
    if not getattr(neck, "laterals", True):  # the coarsest map alone has one
        used = list(inputs[neck.start_level : neck.end_level + 1])
    names = [f"P{int(finest[1:]) + i}" for i in range(neck.num_outs)]
    sources = []
    for i, name in enumerate(used):
        last = i == len(used) - 1
        parts = [f"{name} lateral"] if last or getattr(neck, "laterals", True) else []
        if not last and getattr(neck, "top_down", True):
            parts.append(names[i + 1])
        sources.append(" + ".join(parts))
    extra = getattr(neck, "extra_source", None)
    extra = neck.add_extra_convs if extra is None else extra
    for i in range(len(used), neck.num_outs):
        before = names[i - 1]
        if not extra:
            sources.append(f"max pool of {before}")
        elif i == len(used):
            first = {"on_input": inputs[-1], "on_lateral": f"{inputs[-1]} lateral"}
            sources.append(f"conv of {first.get(extra, before)}")
        else:
            relu = neck.relu_before_extra_convs
            sources.append(f"conv of {f'ReLU of {before}' if relu else before}")
    return sources


def _apply(module: nn.Module, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    module.eval()
    outputs = module(inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _levels(
    letter: str, probe: Sequence[Tensor], maps: Sequence[Tensor], sources: Sequence[str]
) -> list[Level]:
    """Names count from that of the finest stride: 2 for stride 4."""
    strides = [round(_PROBE / m.shape[-1]) for m in probe]
    first = round(log2(strides[0]))
    return [
        Level(f"{letter}{first + i}", strides[i], m.shape[1], tuple(m.shape[-2:]), sources[i])
        for i, m in enumerate(maps)
    ]
