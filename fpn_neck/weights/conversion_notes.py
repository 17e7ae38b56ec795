"""Options that weights do not show. Set or check them, so that the converted model is equal.

Sources: torchvision ``ops/feature_pyramid_network.py``, ``models/detection/faster_rcnn.py``;
detectron2 0.6 ``modeling/backbone/{fpn,resnet}.py``, ``config/defaults.py``; mmdet 3.3
``models/necks/fpn.py``; segmentation_models_pytorch 0.5 ``decoders/fpn/decoder.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fpn_neck.weights.conversion import Conversion

_MM = ("mmdet", "mmseg")
_P7 = ("torchvision", "detectron2")
_SMP = ("smp", "article")
_ALL = (*_MM, *_P7, *_SMP)


@dataclass(frozen=True)
class Note:
    """``text`` applies if a role matches the pattern ``part``, from ``source`` to ``target``."""

    part: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    text: str


NOTES = (
    Note("neck", ("smp",), _MM, "set neck.type='fpn_neck.FPN', neck.smooth='none'"),
    Note(
        "neck",
        _SMP,
        _MM,
        "set neck.upsample_cfg=dict(mode=...) to the decoder's decoder_interpolation, if it was "
        "not 'nearest' (the default)",
    ),
    Note(
        "neck",
        _SMP,
        _P7,
        "equal only if the decoder had decoder_interpolation='nearest' (the default)",
    ),
    Note("neck", ("article",), _MM, "set neck.type='fpn_neck.FPN', neck.smooth='chained'"),
    Note(
        r"neck\..*\.(bn|gn)\.",
        _ALL,
        _ALL,
        "the pyramid has a norm: build the {target} one with the same (mm norm_cfg, torchvision "
        "norm_layer, detectron2 FPN.NORM)",
    ),
    Note(
        "neck",
        ("detectron2",),
        (*_MM, "torchvision", *_SMP),
        "equal only if the model had FPN.FUSE_TYPE='sum' (the default): 'avg' halves every sum of "
        "the top-down path",
    ),
    Note(
        "neck",
        (*_MM, "torchvision", *_SMP),
        ("detectron2",),
        "set FPN.FUSE_TYPE='sum' (the default)",
    ),
    Note(
        r"backbone\.(.*\.)?gn\d",
        _ALL,
        _ALL,
        "the backbone has GroupNorm: build the {target} one with it (mm "
        "norm_cfg=dict(type='GN', num_groups=32), torchvision norm_layer, detectron2 "
        "RESNETS.NORM='GN')",
    ),
    Note(
        r"backbone\.(.*\.)?gn\d",
        _MM,
        (*_P7, *_SMP),
        "equal only if the backbone had no conv_cfg: weights do not show ConvWS",
    ),
    Note(
        "neck",
        _MM,
        (*_P7, *_SMP),
        "equal only if the neck had its top-down path (top_down=True), nearest upsampling, and no "
        "act_cfg or conv_cfg",
    ),
    Note(
        "neck.extra",
        _MM,
        _ALL,
        "equal only if the neck had smooth='merged': its 3x3 convolutions are counted as such",
    ),
    Note("backbone", _SMP, _ALL, "equal only if the encoder had encoder_depth=5: C2 to C5"),
    Note(
        "backbone",
        _ALL,
        _ALL,
        "strides: equal only if both backbones have no dilation (mm dilations, torchvision "
        "replace_stride_with_dilation, detectron2 RES5_DILATION, smp output_stride), or the same",
    ),
    Note("neck.extra6", _P7, _MM, "set neck.add_extra_convs='{p6_source}', with num_outs to match"),
    Note(
        "neck.extra6",
        _MM,
        _P7,
        "equal only if the neck had add_extra_convs='{p6_source}': what {target} makes P6 from",
    ),
    Note(
        "neck.extra7",
        _P7,
        _MM,
        "set neck.relu_before_extra_convs=True: {source} has a ReLU before P7, mmdet mostly not",
    ),
    Note(
        "neck.extra7",
        _MM,
        _P7,
        "equal only if the neck had relu_before_extra_convs=True: {target} has a ReLU before P7, "
        "mmdet mostly not",
    ),
    Note(
        "head",
        _SMP,
        ("mmseg",),
        "set decode_head.align_corners=True, norm_cfg=dict(type='GN', num_groups=32)",
    ),
    Note(
        "head",
        ("mmseg",),
        _SMP,
        "equal only if the head had align_corners=True and GroupNorm with 32 groups",
    ),
    Note(
        "head",
        ("mmseg",),
        ("mmdet", "detectron2"),
        "equal only if the head had align_corners=False",
    ),
    Note(
        r"head\.\d\.\d\.gn",
        ("detectron2",),
        _MM,
        "set the head's norm_cfg=dict(type='GN', num_groups=32); equal only if the model had "
        "SEM_SEG_HEAD.NORM='GN' (the default)",
    ),
    Note(
        "head",
        ("detectron2",),
        _MM,
        "class order is kept: 'things' of a Panoptic FPN is detectron2's class 0, mmdet's last",
    ),
    Note(
        "head",
        _MM,
        ("detectron2",),
        "class order is kept: 'things' of a Panoptic FPN is mmdet's last class, detectron2's 0",
    ),
    Note(
        "backbone",
        ("detectron2",),
        _ALL,
        "input: detectron2's default is BGR, mean [103.53, 116.28, 123.675], std 1; keep what the "
        "model was trained with (mm: data_preprocessor mean, std, bgr_to_rgb=False)",
    ),
    Note(
        "backbone",
        ("detectron2",),
        _MM,
        "stride: set backbone.style='caffe' if the model had STRIDE_IN_1X1=True (the default)",
    ),
    Note(
        "backbone",
        ("detectron2",),
        ("torchvision", *_SMP),
        "stride: equal only if the model had STRIDE_IN_1X1=False; True is the default",
    ),
    Note(
        "backbone",
        (*_MM, "torchvision", *_SMP),
        ("detectron2",),
        "input and stride: set INPUT.FORMAT, PIXEL_MEAN, PIXEL_STD to what the model was trained "
        "with (mostly RGB, ImageNet's), and RESNETS.STRIDE_IN_1X1=False",
    ),
    Note(
        "backbone",
        ("torchvision",),
        _ALL,
        "torchvision's own COCO_V1 detectors were trained with batch norm's eps=0",
    ),
    Note(
        "backbone",
        _MM,
        ("torchvision", *_SMP),
        "stride: equal only if the backbone had style='pytorch'",
    ),
    Note(
        "backbone",
        ("torchvision", *_SMP),
        _MM,
        "input: RGB, ImageNet's mean and std; in mm's scale mean=[123.675, 116.28, 103.53], "
        "std=[58.395, 57.12, 57.375], bgr_to_rgb=True",
    ),
)


def notes(conversion: Conversion, source: str, target: str) -> list[str]:
    """The options to set or check, one line each; see `fpn_neck.weights.conversion.convert`."""
    p6 = conversion.roles.get("neck.extra6.conv.weight")
    on_output = p6 is not None and p6.shape[0] == p6.shape[1]
    values = {
        "source": source,
        "target": target,
        "p6_source": "on_output" if on_output else "on_input",
    }
    return [
        note.text.format(**values)
        for note in NOTES
        if source in note.source
        and target in note.target
        and any(re.match(note.part, role) for role in conversion.roles)
    ]
