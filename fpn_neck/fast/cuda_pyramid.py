"""The paper's neck on a GPU: laterals, top-down path and 3x3 convolutions together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fpn_neck.fast.cuda.merge import add_upsampled, bias_as_channels, sum_targets
from fpn_neck.fast.eligible import takes_fast_backward
from fpn_neck.fast.memory_format import in_layout_of, is_channels_last, is_half

Conv = tuple[Tensor, Tensor]  # weight and bias

# From this size on, a pass over a map takes longer than the work of avoiding it: about 50 us on an
# H100.
LEAST_NUMBERS = 1 << 25


def cuda_pyramid(
    maps: Sequence[Tensor], laterals: Sequence[Conv], smooths: Sequence[Conv]
) -> tuple[list[Tensor], Tensor]:
    """P2..P5 of maps that Triton's kernels serve; differentiable.

    Autocast has its effect. In half precision, tensor cores want NHWC. So maps in NCHW are
    converted once, instead of before and after every convolution.

    Args:
        maps: C2..C5, (N, C_i, H_i, W_i), finest first.
        laterals: of 1x1 convolutions, (O, C_i, 1, 1) and (O,), one per map.
        smooths: of 3x3 convolutions, (O, O, 3, 3) and (O,), one per map, or none.

    Returns:
        P2..P5, each in the memory format of its map, and the coarsest lateral in any format.
    """
    last = is_half(maps[0]) or any(is_channels_last(x) for x in maps)
    memory_format = torch.channels_last if last else torch.contiguous_format
    outs: list[Tensor] = []
    above = coarsest = None
    for i in reversed(range(len(maps))):
        ones = i == 0 and last and len(smooths) > 0 and _is_bias_better_a_channel(maps, smooths)
        above = _merged(maps[i].contiguous(memory_format=memory_format), laterals[i], above, ones)
        coarsest = above if coarsest is None else coarsest
        if not smooths:
            outs.insert(0, in_layout_of(above, maps[i]))
            continue
        weight, bias = smooths[i]
        if ones:
            out = F.conv2d(above, bias_as_channels(weight, bias), padding=1)
        else:
            out = F.conv2d(above, weight, bias, padding=1)
        above = above if i else None  # the finest, whose memory is free for the next copy
        outs.insert(0, out if is_channels_last(weight) else in_layout_of(out, maps[i]))
    assert coarsest is not None
    return outs, coarsest


def _merged(x: Tensor, lateral: Conv, above: Tensor | None, with_ones: bool) -> Tensor:
    """A map of the top-down path, from a backbone's map and the level above, if there is one."""
    weight, bias = lateral
    if above is None:
        return F.conv2d(x, weight, bias)
    if with_ones:
        return add_upsampled(F.conv2d(x, weight), bias, above, with_ones=True)
    return merge(F.conv2d(x, weight), bias, above)


def merge(lateral: Tensor, bias: Tensor, above: Tensor) -> Tensor:
    """lateral + bias + nearest upsampling of ``above`` to its size; differentiable.

    Args: see `fpn_neck.fast.cuda.merge.add_upsampled`. The lateral is changed. Autograd must not
        need its values; it needs none of a convolution's result.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (lateral, bias, above)):
        return _Merge.apply(lateral, bias, above)
    return add_upsampled(lateral, bias, above)


class _Merge(Function):
    @staticmethod
    def forward(ctx: Any, lateral: Tensor, bias: Tensor, above: Tensor) -> Tensor:
        ctx.mark_dirty(lateral)
        ctx.above_shape, ctx.bias_dtype = above.shape, bias.dtype
        return add_upsampled(lateral, bias, above)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, wants_bias, wants_above = ctx.needs_input_grad
        above = sums = None
        if wants_above and takes_fast_backward(grad):
            above, sums = sum_targets(grad, ctx.above_shape[-2:], wants_sums=wants_bias)
        elif wants_above:
            size, shape = grad.shape[-2:], ctx.above_shape
            above = torch.ops.aten.upsample_nearest2d_backward(grad, size, shape)
        if wants_bias and sums is None:
            sums = grad.sum((0, 2, 3), dtype=torch.float32)
        return grad, None if sums is None else sums.to(ctx.bias_dtype), above


def _is_bias_better_a_channel(maps: Sequence[Tensor], smooths: Sequence[Conv]) -> bool:
    """Whether the finest 3x3's bias costs less as further channels than as a pass of its own."""
    images, _, height, width = maps[0].shape
    numbers = images * len(smooths[0][0]) * height * width
    return len(maps) > 1 and numbers >= LEAST_NUMBERS and not torch.is_grad_enabled()
