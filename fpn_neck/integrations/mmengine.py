"""What any mmengine framework can name, and mmcv's convolutions for the configs that use them."""

from __future__ import annotations

from importlib.util import find_spec

from fpn_neck.fpn import FPN
from fpn_neck.integrations import (  # noqa: F401 (register)
    dependable,
    distributed,
    fsdp,
    hooks,
    select_levels,
)
from fpn_neck.integrations.pyramid_backbone import PyramidBackbone
from fpn_neck.layers import CONVS
from fpn_neck.losses import CrossEntropyLoss, DiceLoss
from fpn_neck.registry import MODELS

MODELS.register_module(module=FPN)
MODELS.register_module(module=CrossEntropyLoss)
MODELS.register_module(module=DiceLoss)
MODELS.register_module(module=PyramidBackbone)
if find_spec("mmcv"):
    from mmcv.cnn import ConvAWS2d, ConvWS2d
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    CONVS |= {
        "ConvWS": ConvWS2d,
        "ConvAWS": ConvAWS2d,
        "DCN": DeformConv2dPack,
        "DCNv2": ModulatedDeformConv2dPack,
    }
if find_spec("timm"):
    from fpn_neck.integrations.timm import TimmBackbone

    MODELS.register_module(module=TimmBackbone)
