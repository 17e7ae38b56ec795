"""CARAFE's upsampling as ``mmcv._ext`` names and calls it (Wang et al., ICCV 2019).

An output pixel is the weighted sum of the k x k cells round the cell it lies in; the weights are
its own, one set for each group of channels (mmcv 2.1, ``csrc/common/cuda/carafe_cuda_kernel.cuh``).

Shapes: features (N, C, H, W); masks (N, groups * k * k, s * H, s * W); output (N, C, s * H, s * W).
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from fpn_neck.mm.mmcv_ops.autograd import gradients
from fpn_neck.mm.mmcv_ops.inputs import at_least_float32


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Overwrite `output`."""
    features, masks = at_least_float32(features, masks)
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Overwrite the gradients of features and masks."""
    reassemble = partial(
        _reassemble, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor
    )
    grads = gradients(reassemble, at_least_float32(features, masks), top_grad)
    bottom_grad.copy_(grads[0])
    mask_grad.copy_(grads[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Overwrite `output`, and `rfeatures`, which mmcv keeps for the backward, by the features."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Overwrite the gradients of features and masks; the other buffers are mmcv's scratch."""
    tensors = top_grad, rfeatures, masks, bottom_grad, mask_grad
    carafe_naive_backward(*tensors, kernel_size, group_size, scale_factor)


def _reassemble(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    n, c, h, w = features.shape
    pad, s = kernel_size // 2, scale_factor
    padded = F.pad(features, [pad] * 4).unflatten(1, (group_size, -1))
    weights = masks.view(n, group_size, kernel_size**2, 1, h, s, w, s)
    output = features.new_zeros(n, group_size, c // group_size, h, s, w, s)
    for i in range(kernel_size**2):
        y, x = divmod(i, kernel_size)
        cells = padded[..., y : y + h, x : x + w]  # (N, groups, C / groups, H, W)
        output = output + cells[..., :, None, :, None] * weights[:, :, i]
    return output.reshape(n, c, s * h, s * w)
