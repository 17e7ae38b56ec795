"""The module loaded as ``mmcv._ext``: the operators that torchvision and torch can compute.

``mmcv.ops`` looks up some 120 operators when it is imported, so every public name exists here.
An operator that is not implemented raises an error when it is called.
"""

from collections.abc import Callable
from typing import NoReturn

import torchvision

from fpn_neck.mm.mmcv_ops.boxes import nms, nms_match, softnms
from fpn_neck.mm.mmcv_ops.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from fpn_neck.mm.mmcv_ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from fpn_neck.mm.mmcv_ops.deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from fpn_neck.mm.mmcv_ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from fpn_neck.mm.mmcv_ops.masked_conv import masked_col2im_forward, masked_im2col_forward
from fpn_neck.mm.mmcv_ops.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from fpn_neck.mm.mmcv_ops.psa_mask import psamask_backward, psamask_forward
from fpn_neck.mm.mmcv_ops.roi_align import roi_align_backward, roi_align_forward
from fpn_neck.mm.mmcv_ops.roi_pool import roi_pool_backward, roi_pool_forward

__all__ = [
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """What ``mmcv.utils.collect_env`` prints. It does not catch errors, so this must not raise."""
    return f"none (operators of torchvision {torchvision.__version__})"


get_compiling_cuda_version = get_compiler_version


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("_"):  # introspection must see that these do not exist
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def unavailable(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"the mmcv operator {name!r} exists only compiled, and torchvision has no equivalent; "
            "to use it, replace mmcv-lite by the full mmcv: `pip uninstall mmcv-lite`, then "
            "`pip install mmcv==2.1.0`, which compiles it for the installed torch"
        )

    unavailable.__name__ = unavailable.__qualname__ = name
    return unavailable
