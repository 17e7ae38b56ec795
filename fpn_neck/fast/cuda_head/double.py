"""A map plus a coarser one, upsampled: the last step of the head's towers, in one pass.

With S bytes of the finer map, torch's operators move 4.25 S: upsampling reads S / 4 and writes S,
the addition reads both and writes the sum. Here it is 2.25 S, and a group norm and ReLU of the
finer map ride along: as a pass of their own, they move 2 S more.

The norms of the coarser maps do not ride along: each of their numbers is read for 16 results, and
would be normalised 16 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fpn_neck.fast.cuda.launch import Launch
from fpn_neck.fast.cuda.merge import dense_format, is_last, new_map, tile
from fpn_neck.fast.eligible import are_for_triton, eager, takes_fast_backward, takes_triton
from fpn_neck.utils.sizes import ceil_div, resize


class Addend(NamedTuple):
    """What a map is added to.

    Attributes:
        map: (N, C, h, w).
        doubled: whether it is upsampled by two, and then to the other map's size, where that is a
            few pixels off; else only to the other's size.
        align_corners: of every upsampling.
        fits: True if the map, doubled if ``doubled``, is known to have the other's size.
    """

    map: Tensor
    doubled: bool
    align_corners: bool
    fits: bool = False

    def resized(self, size: Sequence[int]) -> Tensor:
        """By torch's operators; a new map if doubled."""
        x = self.map
        if self.doubled:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
        return x if self.fits else resize(x, size, self.align_corners)


def add(x: Tensor, addend: Addend) -> Tensor:
    """x + the addend at x's size."""
    kernels = addend.doubled and eager() and takes_triton(x) and may_add(x, addend)
    if kernels and (is_last(x) or x.is_contiguous()):
        return add_doubled(x, addend.map)
    other = addend.resized(x.shape[-2:])
    # An upsampled map is new, so it may change.
    return other.add_(x) if addend.doubled and eager() else x + other


def may_add(x: Tensor, addend: Addend) -> bool:
    """Whether kernels add it to a map that they serve."""
    other = addend.map
    if x.dtype != other.dtype or not are_for_triton(x, other):
        return False
    return not addend.align_corners if addend.doubled else x.shape == other.shape


def add_doubled(x: Tensor, other: Tensor) -> Tensor:
    """x + ``other``, upsampled twice, to (2h, 2w) and to x's size; a new map, differentiable.

    Args:
        x: (N, C, H, W), float32, float16 or bfloat16, dense in NCHW or NHWC.
        other: (N, C, h, w) of any size, of x's dtype.
    """
    if torch.is_grad_enabled() and (x.requires_grad or other.requires_grad):
        return _AddDoubled.apply(x, other)
    return _add_doubled(x, other)


class _AddDoubled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor) -> Tensor:
        ctx.size = other.shape[-2:]
        return _add_doubled(x, other)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        return grad, doubled_gradient(grad, ctx.size) if ctx.needs_input_grad[1] else None


def _add_doubled(x: Tensor, other: Tensor) -> Tensor:
    out = torch.empty_like(x)
    add_launch(x, in_format_of(other, x), out).run()
    return out


def in_format_of(other: Tensor, x: Tensor) -> Tensor:
    """``other``, dense in the memory format of ``x``."""
    return other.contiguous(memory_format=dense_format(is_last(x)))


def add_launch(
    x: Tensor, other: Tensor, out: Tensor, norm: tuple[Tensor, ...] | None = None
) -> Launch:
    """What fills ``out`` with x + upsampled other, or with relu(group_norm(x)) + it.

    Args:
        norm: mean and 1 / deviation of the groups (N, groups), weight and bias (C,).
    """
    from fpn_neck.fast.cuda_head.double_kernels import add_doubled as kernel

    images, channels, height, width = x.shape
    h, w = other.shape[-2:]
    last = is_last(x)
    columns, block = _tile(last, width, channels)
    return Launch(
        kernel,
        (images * height, ceil_div(width, columns), ceil_div(channels, block)),
        (
            x, *(norm or (x, x, x, x)), other, out,
            height, width, h, w, 2 * h / height, 2 * w / width,
        ),
        {
            "C": channels, "WIDTH": channels // norm[0].shape[1] if norm else 0,
            "DOUBLE": (height, width) == (2 * h, 2 * w), "LAST": last,
            "COLUMNS": columns, "CHANNELS": block,
        },
    )  # fmt: skip


def doubled_gradient(grad: Tensor, size: Sequence[int]) -> Tensor:
    """Gradient of `add_doubled` by ``other``, of that size; deterministic."""
    h, w = size
    if takes_fast_backward(grad) and takes_triton(grad):
        return sum_doubled(grad, (h, w))
    return plain_gradient(grad, (h, w))


def plain_gradient(grad: Tensor, size: tuple[int, int]) -> Tensor:
    """By torch's operators, which can be differentiated again."""
    h, w = size
    shape, double = grad.shape[:2], (2 * h, 2 * w)
    backward = torch.ops.aten.upsample_bilinear2d_backward
    if grad.shape[-2:] != double:
        grad = backward(grad, grad.shape[-2:], (*shape, *double), False)
    return backward(grad, double, (*shape, h, w), False, 2.0, 2.0)


def sum_doubled(grad: Tensor, size: tuple[int, int]) -> Tensor:
    """`doubled_gradient` by the kernel, for a gradient of any strides."""
    grad = grad.contiguous(memory_format=dense_format(is_last(grad)))
    out = new_map(grad, (*grad.shape[:2], *size))
    sum_launch(grad, out).run()
    return out


def sum_launch(grad: Tensor, out: Tensor) -> Launch:
    """What fills ``out``."""
    from fpn_neck.fast.cuda_head.double_kernels import sum_doubled as kernel

    images, channels, height, width = grad.shape
    h, w = out.shape[-2:]
    last = is_last(grad)
    columns, block = _tile(last, w, channels)
    return Launch(
        kernel,
        (images * h, ceil_div(w, columns), ceil_div(channels, block)),
        (
            grad, out, height, width, h, w, 2 * h / height, 2 * w / width,
            ceil_div(5 * height, 2 * h) + 1, ceil_div(5 * width, 2 * w) + 1,
        ),
        {
            "C": channels, "DOUBLE": (height, width) == (2 * h, 2 * w), "LAST": last,
            "COLUMNS": columns, "CHANNELS": block,
        },
    )  # fmt: skip


def _tile(last: bool, width: int, channels: int) -> tuple[int, int]:
    """Columns and channels of a program; in NCHW each tap has its own addresses, in registers."""
    columns, block = tile(last, width, channels)
    return columns, block if last else min(4, block)
