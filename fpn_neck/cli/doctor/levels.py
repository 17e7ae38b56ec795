"""The levels of a backbone's and a neck's feature maps; measured on the meta device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log2
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from fpn_neck.models.pyramid_backbone import PyramidBackbone, image_channels

_PROBE_SIDE = 1024  # px, a whole number of cells at every stride


class Level(NamedTuple):
    """One map: stride in image pixels, size (height, width) in cells, and where it comes from."""

    name: str
    stride: int
    channels: int
    size: tuple[int, int]
    source: str


class ChannelsDiffer(ValueError):
    """A neck's ``in_channels`` differ from the channels of the maps that it gets."""

    def __init__(self, declared: Sequence[int], given: Sequence[int]) -> None:
        super().__init__(f"neck.in_channels={list(declared)}, and the backbone gives {given}")
        self.given = given


class FPNLike(Protocol):
    """What our FPN, mmdet's and mmseg's have in common."""

    start_level: int
    backbone_end_level: int
    num_outs: int
    lateral_convs: nn.ModuleList
    add_extra_convs: str | bool
    relu_before_extra_convs: bool


class _Maps(NamedTuple):
    """Maps, finest first, of an image whose sides every stride divides, and of the real image."""

    probe: list[Tensor]
    real: list[Tensor]

    def through(self, module: nn.Module) -> _Maps:
        return _Maps(_apply(module, self.probe), _apply(module, self.real))

    def levels(self, letter: str, source: str) -> list[Level]:
        """Numbers count from that of the finest stride: 2 for stride 4."""
        strides = [round(_PROBE_SIDE / x.shape[-1]) for x in self.probe]
        first = round(log2(strides[0]))
        return [
            Level(f"{letter}{number}", stride, x.shape[1], (x.shape[2], x.shape[3]), source)
            for number, (stride, x) in enumerate(zip(strides, self.real, strict=True), first)
        ]


@torch.no_grad()
def measure_levels(
    backbone: nn.Module, neck: nn.Module | None, size: tuple[int, int]
) -> tuple[list[Level], list[Level]]:
    """The backbone's levels C2, C3, ..., and the neck's levels P2, P3, ...; [] without a neck.

    Args:
        backbone: images (N, C, H, W) -> maps, finest first; on the meta device.
        neck: maps -> maps, an ``nn.Sequential`` of such modules, or None.
        size: (height, width) of the image in px.

    Raises:
        ChannelsDiffer: see there.
        Exception: whatever backbone and neck raise for an image of this size.
    """
    if neck is None and isinstance(backbone, PyramidBackbone):
        neck, backbone = backbone.neck, backbone.backbone
    shape = 1, image_channels(backbone)
    images = [torch.empty(*shape, *sides, device="meta") for sides in ((_PROBE_SIDE,) * 2, size)]
    maps = _Maps(*(_apply(backbone, image) for image in images))
    backbone_levels = maps.levels("C", str(getattr(backbone, "model_name", _name(backbone))))
    levels = backbone_levels
    for part in _parts(neck):
        _check_channels(part, maps.real)
        maps = maps.through(part)
        levels = _levels_after(part, maps, levels, [level.name for level in backbone_levels])
    return backbone_levels, levels if neck else []


def _parts(neck: nn.Module | None) -> Iterator[nn.Module]:
    if isinstance(neck, nn.Sequential):
        yield from neck
    elif neck is not None:
        yield neck


def _check_channels(part: nn.Module, maps: Sequence[Tensor]) -> None:
    declared, channels = getattr(part, "in_channels", None), [x.shape[1] for x in maps]
    if isinstance(declared, Sequence) and list(declared) != channels:
        raise ChannelsDiffer(declared, channels)


def _levels_after(
    part: nn.Module, maps: _Maps, before: list[Level], backbone_names: list[str]
) -> list[Level]:
    indices = getattr(part, "indices", None)
    if isinstance(indices, Sequence):  # SelectLevels
        return [before[i] for i in indices]
    levels = maps.levels("P", _name(part))
    if _name(part) != "FPN" or not hasattr(part, "lateral_convs"):
        return levels
    sources = fpn_sources(cast(FPNLike, part), backbone_names, levels[0].name)
    return [level._replace(source=s) for level, s in zip(levels, sources, strict=True)]


def fpn_sources(neck: FPNLike, inputs: Sequence[str], finest: str) -> list[str]:
    """Where every level comes from, e.g. 'C3 lateral + P4', 'max pool of P5', 'conv of C5'.

    Args:
        neck: our FPN, mmdet's or mmseg's.
        inputs: names of the backbone's maps.
        finest: name of the finest level.
    """
    names = [f"P{int(finest[1:]) + i}" for i in range(neck.num_outs)]
    sources = _lateral_sources(neck, inputs, names)
    return sources + _extra_sources(neck, inputs[-1], names, first=len(sources))


def _lateral_sources(neck: FPNLike, inputs: Sequence[str], names: Sequence[str]) -> list[str]:
    """Where the levels on the top-down path come from."""
    # Only our FPN has these options; without laterals it has one for the coarsest map only.
    laterals, top_down = getattr(neck, "laterals", True), getattr(neck, "top_down", True)
    count = len(neck.lateral_convs) if laterals else neck.backbone_end_level - neck.start_level
    used = inputs[neck.start_level :][:count]
    sources = []
    for i, name in enumerate(used):
        is_coarsest = i == len(used) - 1
        parts = [f"{name} lateral"] if is_coarsest or laterals else []
        if not is_coarsest and top_down:
            parts.append(names[i + 1])
        sources.append(" + ".join(parts))
    return sources


def _extra_sources(
    neck: FPNLike, coarsest_input: str, names: Sequence[str], first: int
) -> list[str]:
    """Where the levels from ``first`` on come from, which are coarser than the backbone's maps."""
    kind = neck.add_extra_convs
    if not kind:
        return [f"max pool of {name}" for name in names[first - 1 : -1]]
    relu = "ReLU of " if neck.relu_before_extra_convs else ""
    sources = [f"conv of {relu}{name}" for name in names[first - 1 : -1]]
    if sources:  # the first has no ReLU before it
        inputs = {"on_input": coarsest_input, "on_lateral": f"{coarsest_input} lateral"}
        sources[0] = f"conv of {inputs.get(str(kind), names[first - 1])}"
    return sources


def _apply(module: nn.Module, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    module.eval()
    outputs = module(inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _name(module: nn.Module) -> str:
    return type(module).__name__
