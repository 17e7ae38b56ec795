"""Feature Pyramid Network neck and segmentation head; needs torch only.

Names are loaded when they are asked for; the import itself loads nothing, not even torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fpn_neck.mm import checkpoint_reader, mmcv_ops
from fpn_neck.mm.config import own_configs

if TYPE_CHECKING:
    from fpn_neck.mm.det.panoptic_head import PanopticFPNHead as PanopticFPNHead
    from fpn_neck.mm.predict.load import load as load
    from fpn_neck.mm.seg.head import FPNHead as FPNHead
    from fpn_neck.mm.seg.segmentor import EncoderDecoder as EncoderDecoder
    from fpn_neck.models.fpn import FPN as FPN
    from fpn_neck.models.pyramid_backbone import PyramidBackbone as PyramidBackbone
    from fpn_neck.models.seg_head import SegHead as SegHead
    from fpn_neck.models.segmenter import Segmenter as Segmenter
    from fpn_neck.models.timm_backbone import TimmBackbone as TimmBackbone
    from fpn_neck.models.torchvision_backbone import FPNBackbone as FPNBackbone
    from fpn_neck.strips.losses import CrossEntropyLoss as CrossEntropyLoss
    from fpn_neck.strips.losses import DiceLoss as DiceLoss

__version__ = "0.1.0"

# mmdet and mmseg import mmcv's compiled operators; where mmcv was installed without them, they are
# found here. Nothing is loaded by this line, and a compiled extension always wins.
mmcv_ops.install()

# mmengine 0.10 cannot read its own checkpoints on torch 2.6 and later. Nothing is loaded here.
checkpoint_reader.read_files_safely()
own_configs.announce_own_configs()

__all__ = ["FPN", "CrossEntropyLoss", "DiceLoss", "SegHead", "Segmenter", "__version__", "load"]

# A name's module is loaded when the name is asked for. So a name may need more than torch, and
# ``fpn-neck predict model.onnx`` needs no torch.
_LAZY = {
    "CrossEntropyLoss": "fpn_neck.strips.losses",
    "DiceLoss": "fpn_neck.strips.losses",
    "EncoderDecoder": "fpn_neck.mm.seg.segmentor",
    "FPN": "fpn_neck.models.fpn",
    "FPNBackbone": "fpn_neck.models.torchvision_backbone",
    "FPNHead": "fpn_neck.mm.seg.head",
    "PanopticFPNHead": "fpn_neck.mm.det.panoptic_head",
    "PyramidBackbone": "fpn_neck.models.pyramid_backbone",
    "SegHead": "fpn_neck.models.seg_head",
    "Segmenter": "fpn_neck.models.segmenter",
    "TimmBackbone": "fpn_neck.models.timm_backbone",
    "load": "fpn_neck.mm.predict.load",
}

_MODULES = ("fast", "models")  # ``fpn_neck.fast`` after only ``import fpn_neck``


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"fpn_neck.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'fpn_neck' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
