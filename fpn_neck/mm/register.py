"""Registers what any mmengine framework can name; adds mmcv's convolutions for configs."""

from __future__ import annotations

from importlib.util import find_spec

from fpn_neck.mm.distributed import (  # noqa: F401 (register)
    bfloat16_wrapper,
    cpu_data_parallel,
    fsdp,
)
from fpn_neck.mm.registry import MODELS
from fpn_neck.mm.training import install_hooks, report_hooks  # noqa: F401 (register)
from fpn_neck.models.fpn import FPN
from fpn_neck.models.layers import CONVS
from fpn_neck.models.pyramid_backbone import PyramidBackbone
from fpn_neck.models.select_levels import SelectLevels
from fpn_neck.strips.losses import CrossEntropyLoss, DiceLoss

MODELS.register_module(module=FPN)
MODELS.register_module(module=CrossEntropyLoss)
MODELS.register_module(module=DiceLoss)
MODELS.register_module(module=PyramidBackbone)
MODELS.register_module(module=SelectLevels)
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
    from fpn_neck.models.timm_backbone import TimmBackbone

    MODELS.register_module(module=TimmBackbone)
