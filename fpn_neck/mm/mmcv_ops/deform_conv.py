"""Deformable convolution v1 and v2 as ``mmcv._ext`` names and calls them.

Dai et al., ICCV 2017, and Zhu et al., CVPR 2019. mmcv and torchvision agree on the layout: an
offset map has ``2 * deformable groups * kH * kW`` channels, (dy, dx) for each kernel element in
row order, and offsets move samples by feature pixels.

Shapes: input (N, C, H, W); weight (O, C / groups, kH, kW); offset (N, 2 * G * kH * kW, oH, oW);
mask (N, G * kH * kW, oH, oW); output (N, O, oH, oW). The scratch buffers `columns` and `ones` and
the size of a step through the batch, `im2col_step`, are mmcv's; torchvision manages its own.
The ``sizes`` are mmcv's keywords, those of `_v1_geometry` or of `_v2_geometry`.
"""

from typing import NamedTuple

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from fpn_neck.mm.mmcv_ops.precision import at_least_float32


class _Geometry(NamedTuple):
    """In the order of torchvision's operators, which take the kernel's size from the weight."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    deformable_groups: int


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **sizes: int,
) -> None:
    """Overwrite `output` with the convolution v1, without modulation or bias."""
    output.copy_(_forward(input, weight, offset, None, None, _v1_geometry(**sizes)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **sizes: int,
) -> None:
    """Add the gradient of the input to `gradInput` and overwrite `gradOffset`."""
    grads = _backward(gradOutput, input, weight, offset, None, None, _v1_geometry(**sizes))
    gradInput.add_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **sizes: int,
) -> None:
    """Add `scale` times the gradient of the weight to `gradWeight`."""
    # the gradient of the weight does not depend on the weight, which mmcv does not pass
    weight = torch.zeros_like(gradWeight)
    grads = _backward(gradOutput, input, weight, offset, None, None, _v1_geometry(**sizes))
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Overwrite `output` with the convolution v2; `bias` is (O,), or anything if not used."""
    used_bias = bias if with_bias else None
    output.copy_(_forward(input, weight, offset, mask, used_bias, _v2_geometry(**sizes)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Add to the gradients of input, weight and bias; overwrite those of offset and mask."""
    used_bias = bias if with_bias else None
    geometry = _v2_geometry(**sizes)
    grads = _backward(grad_output, input, weight, offset, mask, used_bias, geometry)
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias.add_(grads[4])


def _v1_geometry(
    *,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> _Geometry:
    return _Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)


def _v2_geometry(
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
) -> _Geometry:
    return _Geometry(
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group
    )


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> Tensor:
    tensors = _arguments(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *geometry, mask is not None)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    (grad,) = at_least_float32(grad_output)
    tensors = _arguments(input, weight, offset, mask, bias)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        grad, *tensors, *geometry, mask is not None
    )
    kink = _at_kink(tensors[2], weight.shape[2:], geometry)
    grad_offset = grads[2].masked_fill(kink, 0)
    return *grads[:2], grad_offset, *grads[3:]


def _at_kink(offset: Tensor, kernel: torch.Size, geometry: _Geometry) -> Tensor:
    """Which coordinates of samples, laid out like `offset`, are exactly -1.

    There the zero outside begins, and the value of a sample has two derivatives. mmcv gives 0,
    torchvision the one towards the image. Zero offsets with padding, where every deformable
    convolution starts its training, lie there.
    """

    def coordinates(count: int, dilation: int, length: int, stride: int, pad: int) -> Tensor:
        """Undeformed, (kernel elements, outputs)."""
        element, place = (torch.arange(n, device=offset.device) for n in (count, length))
        return element[:, None] * dilation + place * stride - pad

    g = geometry
    y = coordinates(kernel[0], g.dilation_h, offset.shape[2], g.stride_h, g.pad_h)
    x = coordinates(kernel[1], g.dilation_w, offset.shape[3], g.stride_w, g.pad_w)
    y, x = y[:, None, :, None], x[None, :, None, :]
    regular = torch.stack(torch.broadcast_tensors(y, x), dim=2).flatten(0, 2)  # (2 kH kW, oH, oW)
    return offset + regular.repeat(g.deformable_groups, 1, 1) == -1


def _arguments(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """torchvision's operator does not accept None: what is unused is given as zeros."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return at_least_float32(input, weight, offset, mask, bias)
