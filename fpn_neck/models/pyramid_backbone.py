"""A backbone and an FPN as one module, which passes the channels from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fpn_neck.models.backbones import build_backbone, neck_options
from fpn_neck.models.declarations import check_strides, declared, declares
from fpn_neck.models.fpn import FPN
from fpn_neck.utils.arguments import check_float_map
from fpn_neck.utils.modes import evaluating

_PROBE_SIZE = 128  # a whole number of cells at every stride up to 64


class PyramidBackbone(nn.Module):
    """Images -> pyramid, for detectors and segmenters with ``neck=None``.

    Its two parts are ``backbone`` and ``neck``, also in the state dict. If the backbone declares
    ``out_channels`` and ``strides``, one number per map, these are used (`TimmBackbone` does). If
    not, as in mmdet and mmseg, they are measured on a blank image of 128 x 128 px with the channels
    of the backbone's first convolution.

    Args:
        backbone: config of a registered backbone (after ``import fpn_neck.registry``, which needs
            mmengine), the name of a timm model, or a module that maps (N, C, H, W) to a sequence of
            maps, finest first.
        neck: further arguments of `FPN`, e.g. ``{'out_channels': 256, 'num_outs': 5}``.

    Attributes:
        out_channels, strides: of every map of the pyramid, finest first.

    Raises:
        TypeError, ValueError: a backbone without a pyramid, and what the parts refuse.
    """

    def __init__(
        self, backbone: Mapping[str, Any] | str | nn.Module, neck: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        options = neck_options(neck)
        self.backbone = _build(backbone)
        channels, strides = _channels_and_strides(self.backbone)
        self.neck = FPN(channels, **options)
        self.strides = tuple(self.neck.output_strides(strides))
        self.out_channels = (self.neck.out_channels,) * self.neck.num_outs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, C, H, W) -> maps (N, out_channels[i], H/strides[i], W/strides[i]).

        Raises:
            TypeError, ValueError: not a float tensor of this shape.
        """
        check_float_map("images", x)
        return self.neck(self.backbone(x))

    def init_weights(self) -> None:
        """Let the backbone load the weights of its ``init_cfg``; mmengine calls this."""
        init_weights = getattr(self.backbone, "init_weights", None)
        if callable(init_weights):
            init_weights()


def _build(backbone: Mapping[str, Any] | str | nn.Module) -> nn.Module:
    if not isinstance(backbone, (str, Mapping, nn.Module)):
        raise TypeError(
            f"backbone={backbone!r}: expected a config (a dict with 'type'), the name of a timm "
            "model or a module"
        )
    return build_backbone(backbone)


def _channels_and_strides(backbone: nn.Module) -> tuple[list[int], list[int]]:
    """Channels and strides of a backbone's maps, declared or measured."""
    names = "out_channels", "strides"
    if declares(backbone, *names):
        channels, strides = declared(backbone, *names, remedy="one number per map")
    else:
        channels, strides = _measure(backbone)
    check_strides(f"backbone {type(backbone).__name__}", strides, least=2)
    return channels, strides


@torch.no_grad()
def _measure(backbone: nn.Module) -> tuple[list[int], list[int]]:
    """Run it once, in eval mode, so that no batch norm counts the blank image."""
    like = next(backbone.parameters(), torch.empty(0))
    image = like.new_zeros(1, image_channels(backbone), _PROBE_SIZE, _PROBE_SIZE)
    try:
        with evaluating(backbone):
            maps = backbone(image)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as e:
        raise ValueError(
            f"backbone {type(backbone).__name__} does not run on a {tuple(image.shape)} image "
            f"({e}); let it declare out_channels and strides, one number per map"
        ) from e
    if isinstance(maps, Tensor) or not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
        raise TypeError(
            f"backbone {type(backbone).__name__} gives {type(maps).__name__}, not a sequence of "
            "maps (N, C, H, W); an FPN needs two or more that get coarser level by level"
        )
    sizes = [tuple(m.shape[-2:]) for m in maps]
    strides = [max(1, round(_PROBE_SIZE / max(1, w))) for _, w in sizes]
    if sizes != [(_PROBE_SIZE // s,) * 2 for s in strides]:
        raise ValueError(
            f"backbone {type(backbone).__name__} gives maps of {sizes} cells for an image of "
            f"{_PROBE_SIZE} x {_PROBE_SIZE} px, so that no whole strides fit; choose a backbone "
            "whose convolutions are padded"
        )
    return [m.shape[1] for m in maps], strides


def image_channels(backbone: nn.Module) -> int:
    """Of the images that a backbone takes: those of its first convolution."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
