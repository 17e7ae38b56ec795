"""A backbone and an FPN as one module, in the form that torchvision's detectors take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models._utils import IntermediateLayerGetter

from fpn_neck.models.backbones import build_backbone, neck_options
from fpn_neck.models.declarations import declared
from fpn_neck.models.fpn import FPN
from fpn_neck.utils.arguments import check_float_map

# Arguments of `FPN` for the two families of detectors. torchvision's default anchors are made for
# five levels in both.
P2_TO_P6 = {"num_outs": 5}  # FasterRCNN, MaskRCNN: P6 subsamples P5, torchvision's LastLevelMaxPool
P3_TO_P7 = {  # RetinaNet, FCOS: torchvision's LastLevelP6P7, which has a ReLU before P7
    "start_level": 1,
    "num_outs": 5,
    "add_extra_convs": "on_output",
    "relu_before_extra_convs": True,
}


class FPNBackbone(nn.Module):
    """Images -> named levels of a Feature Pyramid Network, finest first.

    Give it to ``FasterRCNN``, ``MaskRCNN``, ``RetinaNet`` or ``FCOS`` of
    ``torchvision.models.detection`` as ``backbone``. The module names are those of torchvision's
    ``BackboneWithFPN`` (``models/detection/backbone_utils.py``): ``body`` and ``fpn``.

    Args:
        backbone: name of a timm model (built by `fpn_neck.models.timm_backbone.TimmBackbone`); or a
            torchvision ``ResNet``, of which the four stages are used, with its norms and frozen
            weights; or a module with ``out_channels`` (one number per map, finest first)
            that maps (N, 3, H, W) to a sequence or a mapping of (N, C_i, H_i, W_i).
        backbone_options: further arguments of `TimmBackbone`, e.g. ``{'checkpoint': ...,
            'frozen_levels': 1}``; only with a name.
        neck: further arguments of `FPN`; five levels unless ``num_outs`` says
            otherwise. ``P3_TO_P7`` is for RetinaNet and FCOS; ``P3_TO_P7 | {'add_extra_convs':
            'on_input'}`` takes P6 from C5, as ``LastLevelP6P7(2048, 256)`` does.
        fpn: the old name of ``neck``; goes with 0.2.

    Attributes:
        out_channels: width of every level.
        level_names: '0', '1', ... for the used maps, then 'p6', 'p7', ... for levels made by
            convolutions, or 'pool' (then 'pool2', ...) for subsampled ones.

    Raises:
        TypeError, ValueError: a backbone without declared channels, and what the parts refuse.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        *,
        backbone_options: Mapping[str, Any] | None = None,
        neck: Mapping[str, Any] | None = None,
        fpn: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = P2_TO_P6 | neck_options(neck, fpn)
        self.body, channels = _build_body(backbone, backbone_options)
        self.fpn = FPN(channels, **options)
        self.out_channels = self.fpn.out_channels
        self.level_names = _level_names(self.fpn)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Normalised images (N, 3, H, W) of any size -> {level name: (N, out_channels, H_i, W_i)}.

        Raises:
            TypeError, ValueError: not a float tensor of this shape; the backbone returns other maps
                than it declares.
        """
        check_float_map("images", images)
        maps = self.body(images)  # C2..C5
        maps = list(maps.values()) if isinstance(maps, Mapping) else maps
        return OrderedDict(zip(self.level_names, self.fpn(maps), strict=True))


def _build_body(
    backbone: str | nn.Module, options: Mapping[str, Any] | None
) -> tuple[nn.Module, list[int]]:
    """The module, and the channels of its maps, finest first."""
    module = build_backbone(backbone, options)
    if isinstance(module, ResNet):
        # C2..C5 under the ResNet's own weight names, as in torchvision's detectors.
        stages = ("layer1", "layer2", "layer3", "layer4")
        body = IntermediateLayerGetter(module, {name: name for name in stages})
        return body, [module.inplanes >> i for i in (3, 2, 1, 0)]
    remedy = (
        "give a timm model's name, a torchvision ResNet, or a module that declares out_channels"
    )
    (channels,) = declared(module, "out_channels", remedy=remedy)
    return module, channels


def _level_names(fpn: FPN) -> list[str]:
    names = [str(i) for i in range(fpn.num_levels)]
    extra = range(fpn.num_outs - fpn.num_levels)
    if fpn.add_extra_convs:
        return names + [f"p{i + 6}" for i in extra]
    return names + [f"pool{i + 1}" if i else "pool" for i in extra]
