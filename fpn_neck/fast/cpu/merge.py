"""One step down the pyramid, lateral 1x1 + upsampled level above, without temporaries.

The lateral is a matrix product that writes its map in the memory format of the next step. Nearest
upsampling to twice the size repeats each pixel 2 x 2 times. So the level above is added in place to
a view (H/2, 2, W/2, 2) of the lateral, and no upsampled map exists. The lateral's bias is added to
the level above, which has a quarter of the pixels. Forward and backward, threads take a few rows at
a time, which are in the cache when the level above is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fpn_neck.fast.cpu.conv3x3 import aten_backward
from fpn_neck.fast.cpu.memory import new_map
from fpn_neck.fast.cpu.threads import run_in_threads
from fpn_neck.fast.cpu.winograd import FillRows
from fpn_neck.fast.eligible import takes_fast_backward
from fpn_neck.fast.memory_format import compute_dtype, is_channels_last

BLOCK_PIXELS = 512  # of the rows that a thread takes at a time


def merge(
    x: Tensor, weight: Tensor, bias: Tensor, above: Tensor | None, channels_last: bool
) -> Tensor:
    """conv1x1(x) + nearest upsampling of ``above`` to x's size; differentiable.

    Args:
        x: (N, C, H, W). weight: (O, C, 1, 1). bias: (O,). above: (N, O, h, w) of any size.
        channels_last: memory format of the result, whose dtype is `compute_dtype`'s.
    """
    return _Merge.apply(x, weight, bias, above, channels_last)


def merged_rows(x: Tensor, weight: Tensor, bias: Tensor, above: Tensor) -> FillRows:
    """The same by blocks of rows and without gradients, if ``above`` `has_half_size`."""
    dtype, width = compute_dtype(x.dtype), x.shape[-1]
    weight, bias = weight.flatten(1).t().to(dtype), bias[:, None, None].to(dtype)

    def fill_rows(n: int, start: int, end: int, target: Tensor) -> None:
        rows = x[n, :, start:end].flatten(1).t().to(dtype) @ weight  # ((end - start) * W, O)
        rows = rows.view(end - start, width, -1).permute(2, 0, 1)
        added = above[n, :, start // 2 : end // 2] + bias
        torch.add(_pairs(rows), added[:, :, None, :, None], out=_pairs(target))

    return fill_rows


def has_half_size(above: Tensor, x: Tensor) -> bool:
    """Whether every pixel of ``above`` becomes exactly 2 x 2 pixels of ``x``."""
    return x.shape[-2:] == (2 * above.shape[-2], 2 * above.shape[-1])


def _pairs(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., H/2, 2, W/2, 2), a view."""
    return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))


class _Rows(NamedTuple):
    """An even number of rows of an image, or its last ones."""

    n: int
    start: int
    end: int

    def of(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (C, rows, W), a view."""
        return x[self.n, :, self.start : self.end]

    def pixels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (C, rows * W), a view in both memory formats."""
        return self.of(x).flatten(1)

    def above(self, x: Tensor) -> Tensor:
        """(N, C, H/2, W/2) -> (C, rows/2, W/2), a view."""
        return x[self.n, :, self.start // 2 : self.end // 2]


def _blocks(x: Tensor) -> list[_Rows]:
    height, width = x.shape[-2:]
    step = 2 * max(1, BLOCK_PIXELS // max(1, 2 * width))
    starts = range(0, height, step)
    return [_Rows(n, y, min(y + step, height)) for n in range(len(x)) for y in starts]


class _Merge(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        above: Tensor | None,
        channels_last: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.above_shape = None if above is None else above.shape
        dtype = compute_dtype(x.dtype)
        out, kernel = new_map(x, len(weight), channels_last, dtype), weight.flatten(1).to(dtype)
        added = bias.to(dtype)[:, None, None]  # to every pixel
        by_pairs = above is not None and has_half_size(above, x)

        def fill(rows: _Rows) -> None:
            pixels, result = rows.pixels(x).to(dtype), rows.pixels(out)
            if channels_last:
                torch.mm(pixels.t(), kernel.t(), out=result.t())
            else:
                torch.mm(kernel, pixels, out=result)
            if above is None:
                result.add_(bias[:, None])
            elif by_pairs:
                _pairs(rows.of(out)).add_((rows.above(above) + added)[:, :, None, :, None])

        run_in_threads(fill, _blocks(out))
        if above is not None and not by_pairs:
            out.add_(F.interpolate(above + added, size=x.shape[-2:]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_above, _ = ctx.needs_input_grad
        if not takes_fast_backward(grad):
            return *_plain_backward(grad, x, weight, ctx.above_shape, ctx.needs_input_grad), None
        kernel = weight.flatten(1).to(grad.dtype)
        # The input's, the largest, comes last, when the temporaries of the others are freed.
        grad_above = _downsample(grad, ctx.above_shape) if wants_above else None
        grad_bias = grad.sum((0, 2, 3)) if wants_bias else None
        grad_x = grad_weight = None
        if wants_weight:
            grad_weight = _weight_gradient(grad, x).view(weight.shape)
        if wants_x:
            grad_x = new_map(x, x.shape[1], is_channels_last(x), x.dtype)
            _fill_input_gradient(grad, kernel, grad_x)
        return grad_x, grad_weight, grad_bias, grad_above, None  # torch casts each to its dtype


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(grad.flatten(2), x.flatten(2).mT.to(grad.dtype)).sum(0)


def _fill_input_gradient(grad: Tensor, kernel: Tensor, grad_x: Tensor) -> None:
    def fill(rows: _Rows) -> None:
        pixels, result = rows.pixels(grad), rows.pixels(grad_x)
        if result.dtype != pixels.dtype:
            result.copy_(kernel.t() @ pixels)
        elif is_channels_last(grad_x):
            torch.mm(pixels.t(), kernel, out=result.t())
        else:
            torch.mm(kernel.t(), pixels, out=result)

    run_in_threads(fill, _blocks(grad_x))


def _plain_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    above_shape: torch.Size | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias and above, by torch's own operators."""
    above = None
    if wanted[3]:
        above = torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[-2:], above_shape)
    return *aten_backward(grad, x, weight, wanted[:3]), above


def _downsample(grad: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the level above: the sum over the pixels that each of its pixels became."""
    if grad.shape[-2:] == (2 * shape[-2], 2 * shape[-1]):
        rows = grad[:, :, ::2] + grad[:, :, 1::2]
        return rows[..., ::2] + rows[..., 1::2]
    return torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[-2:], shape)
