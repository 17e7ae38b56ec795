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

from fpn_neck.mm.mmcv_ops.inputs import at_least_float32

_FAR = 1e6  # px; outside of every map, where samples are 0


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

    def output_size(self, input: Tensor, weight: Tensor) -> torch.Size:
        """(oH, oW) for maps (N, C, H, W) and a kernel (O, C / groups, kH, kW)."""
        (h, w), (kernel_h, kernel_w) = input.shape[2:], weight.shape[2:]
        reach_h, reach_w = self.dilation_h * (kernel_h - 1), self.dilation_w * (kernel_w - 1)
        return torch.Size(
            (
                (h + 2 * self.pad_h - reach_h - 1) // self.stride_h + 1,
                (w + 2 * self.pad_w - reach_w - 1) // self.stride_w + 1,
            )
        )


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
    """Overwrite `output` with the convolution v2; `bias` is (O,), any tensor if not used."""
    used_bias, geometry = bias if with_bias else None, _v2_geometry(**sizes)
    size = geometry.output_size(input, weight)
    offset, mask = _first_numbers(offset, size), _first_numbers(mask, size)
    output.copy_(_forward(input, weight, offset, mask, used_bias, geometry))


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
    used_bias, geometry = bias if with_bias else None, _v2_geometry(**sizes)
    size = geometry.output_size(input, weight)
    offset, mask = _first_numbers(offset, size), _first_numbers(mask, size)
    grads = _backward(grad_output, input, weight, offset, mask, used_bias, geometry)
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    _write_first_numbers(grad_offset, grads[2])
    _write_first_numbers(grad_mask, grads[3])
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
    """The output; NaN where an offset is not finite.

    Raises:
        ValueError: shapes that do not go together; names the argument.
    """
    _check_shapes(input, weight, offset, mask, geometry)
    tensors = _arguments(input, weight, offset, mask, bias)
    finite = tensors[2].isfinite()
    tensors[2] = tensors[2].where(finite, _FAR)
    output = torch.ops.torchvision.deform_conv2d(*tensors, *geometry, mask is not None)
    return output.where(finite.all(1, keepdim=True), torch.nan)


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
    tensors[2] = tensors[2].where(tensors[2].isfinite(), _FAR)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        grad, *tensors, *geometry, mask is not None
    )
    kink = _at_kink(tensors[2], weight.shape[2:], geometry)
    grad_offset = grads[2].masked_fill(kink, 0)
    return *grads[:2], grad_offset, *grads[3:]


def _check_shapes(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: _Geometry
) -> None:
    """torchvision's own errors give no numbers, and some no text."""
    channels, groups = input.shape[1], geometry.groups
    if channels != weight.shape[1] * groups or len(weight) % groups:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} with groups={groups}: expected (a multiple of "
            f"{groups}, {channels} / {groups}, kH, kW) for an input of shape {tuple(input.shape)}"
        )
    if channels % geometry.deformable_groups:
        raise ValueError(
            f"deform_groups={geometry.deformable_groups}: must divide the input's {channels} "
            "channels"
        )
    size = len(input), *geometry.output_size(input, weight)
    samples = geometry.deformable_groups * weight.shape[2:].numel()
    for name, x, count in (("offset", offset, 2 * samples), ("mask", mask, samples)):
        if x is not None and x.shape != (size[0], count, *size[1:]):
            raise ValueError(
                f"{name} of shape {tuple(x.shape)}: expected {(size[0], count, *size[1:])}, two "
                "channels of offsets and one of a mask for each cell of the kernel and group"
            )


def _first_numbers(x: Tensor, size: torch.Size) -> Tensor:
    """A map (N, C, H, W) with an output's height and width, from the first numbers of each image.

    mmcv's kernels read so many and no more; a map as large as the output is taken as it is. DyHead
    gives the offsets and masks of a finer level to convolutions of a coarser one.
    """
    count = x.shape[1] * size[0] * size[1]
    if x.shape[2:] == size or x.shape[1:].numel() < count:  # torchvision refuses a smaller one
        return x
    return x.flatten(1)[:, :count].unflatten(1, (x.shape[1], *size))


def _write_first_numbers(target: Tensor, values: Tensor) -> None:
    """Overwrite the first numbers of each image, see `_first_numbers`, and the others by 0."""
    flat = torch.zeros_like(target).flatten(1)
    flat[:, : values.shape[1:].numel()] = values.flatten(1).to(flat)
    target.copy_(flat.view_as(target))


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
) -> list[Tensor]:
    """torchvision's operator does not accept None: what is unused is given as zeros."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return list(at_least_float32(input, weight, offset, mask, bias))
