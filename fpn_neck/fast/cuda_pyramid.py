"""The paper's neck on a GPU: laterals, top-down path and 3x3 convolutions together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fpn_neck.fast.cuda.merge import (
    add_upsampled,
    bias_as_channels,
    dense_format,
    is_last,
    sum_targets,
    widened,
)
from fpn_neck.fast.eligible import takes_fast_backward
from fpn_neck.fast.memory_format import in_layout_of, is_channels_last, is_half

Conv = tuple[Tensor, Tensor]  # weight and bias

# Numbers of the finest merged map, from which on a pass over a map takes longer than the work of
# avoiding it: about 50 us on an H100. The coarser maps follow: there the GPU takes longer than
# Python. In a CUDA graph smaller maps would gain too, but other kernels than those of the calls
# before would have to be compiled in the middle of the capture.
LEAST_NUMBERS = 1 << 25
_AROUND = [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # stride, padding, ... of a 3x3


def memory_format_of(maps: Sequence[Tensor]) -> torch.memory_format:
    """In half precision, tensor cores want NHWC: maps in NCHW are converted once.

    Otherwise they would be converted before and after every convolution.
    """
    if is_half(maps[0]):
        return torch.channels_last
    for x in maps:
        if is_channels_last(x):
            return torch.channels_last
    return torch.contiguous_format


def cuda_pyramid(
    maps: Sequence[Tensor],
    laterals: Sequence[Conv],
    smooths: Sequence[Conv],
    started: list[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """P2..P5 of maps that Triton's kernels serve; differentiable.

    Autocast has its effect.

    Args:
        maps: C2..C5, (N, C_i, H_i, W_i), finest first.
        laterals: of 1x1 convolutions, (O, C_i, 1, 1) and (O,), one per map.
        smooths: of 3x3 convolutions, (O, O, 3, 3) and (O,), one per map, or none.
        started: the finest map's lateral, see `start_lateral`, if there is one already. The list
            is emptied: so no caller keeps its memory, which is as much as a result's.

    Returns:
        P2..P5, each in the memory format of its map, and the coarsest lateral in any format.
    """
    memory_format = memory_format_of(maps)
    ones = bool(smooths) and _are_biases_better_channels(maps, smooths)
    outs: list[Tensor] = []
    above = coarsest = None
    for i in reversed(range(len(maps))):
        above = _merged(maps[i], laterals[i], above, memory_format, ones, None if i else started)
        coarsest = above if coarsest is None else coarsest
        if not smooths:
            outs.insert(0, in_layout_of(above, maps[i]))
            continue
        weight, bias = smooths[i]
        out = conv3x3(above, weight, bias) if ones else F.conv2d(above, weight, bias, padding=1)
        above = above if i else None  # the finest, whose memory is free for the next copy
        outs.insert(0, out if is_channels_last(weight) else in_layout_of(out, maps[i]))
    assert coarsest is not None
    return outs, coarsest


def _merged(
    x: Tensor,
    lateral: Conv,
    above: Tensor | None,
    memory_format: torch.memory_format,
    with_ones: bool,
    started: list[Tensor] | None,
) -> Tensor:
    """A level's merged map. A function of its own: at its end, the lateral's memory is free."""
    if started and started[-1].is_contiguous(memory_format=memory_format):
        x = started.pop()
    else:
        if started:
            started.clear()  # it has the format of its map, which is not the others'
        x = x.contiguous(memory_format=memory_format)
        x = start_lateral(x, lateral, is_coarsest=above is None)
    return x if above is None else merge(x, lateral[1], above, with_ones=with_ones)


def start_lateral(x: Tensor, lateral: Conv, *, is_coarsest: bool) -> Tensor:
    """A map's 1x1 convolution; `merge` adds the bias, except of the coarsest."""
    weight, bias = lateral
    return F.conv2d(x, weight, bias if is_coarsest else None)


def merge(lateral: Tensor, bias: Tensor, above: Tensor, *, with_ones: bool = False) -> Tensor:
    """lateral + bias + nearest upsampling of ``above`` to its size; differentiable.

    Args: see `fpn_neck.fast.cuda.merge.add_upsampled`. The lateral is changed. Autograd must not
        need its values; it needs none of a convolution's result.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (lateral, bias, above)):
        return (_MergeWide if with_ones else _Merge).apply(lateral, bias, above)
    return add_upsampled(lateral, bias, above, with_ones=with_ones)


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


class _MergeWide(_Merge):
    """With ones behind the channels, in a new map."""

    @staticmethod
    def forward(ctx: Any, lateral: Tensor, bias: Tensor, above: Tensor) -> Tensor:
        ctx.above_shape, ctx.bias_dtype = above.shape, bias.dtype
        return add_upsampled(lateral, bias, above, with_ones=True)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 3x3 convolution with padding; with ones behind the channels, the bias costs no pass."""
    wide = widened(x)
    if wide is None or weight.shape[0] != weight.shape[1]:
        return F.conv2d(x, weight, bias, padding=1)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias)):
        return _ConvOnOnes.apply(x, weight, bias)
    return F.conv2d(wide, bias_as_channels(weight, bias, wide), padding=1)


class _ConvOnOnes(Function):
    """A 3x3 convolution with as many outputs as channels of a map that is `widened`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        wide = widened(x)
        assert wide is not None
        return F.conv2d(wide, bias_as_channels(weight, bias, wide), padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        wide = widened(x)  # None if a hook of saved tensors made a copy
        if wide is None or not takes_fast_backward(grad):
            return _plain_gradients(ctx, grad, x, weight, bias)
        grad = grad.contiguous(memory_format=dense_format(is_last(wide)))  # once for both products
        backward, by_x, by_weight, by_bias = torch.ops.aten.convolution_backward, None, None, None
        if ctx.needs_input_grad[0]:
            # Of the map only the shape counts, and that is the gradient's, which is dense.
            by_x = backward(grad, grad, weight.to(x.dtype), None, *_AROUND, [True, False, False])[0]
        if any(ctx.needs_input_grad[1:]):
            like = wide.new_empty(len(weight), wide.shape[1], 3, 3)  # its values do not count
            found = backward(grad, wide, like, None, *_AROUND, [False, True, False])[1]
            channels = weight.shape[1]
            by_weight = found[:, :channels].to(weight.dtype)
            by_bias = found[:, channels, 1, 1].to(bias.dtype)  # its channel is 1 everywhere
        wanted = zip((by_x, by_weight, by_bias), ctx.needs_input_grad, strict=True)
        return tuple(g if w else None for g, w in wanted)


def _plain_gradients(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """By torch's operators, which can be differentiated again."""
    found = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), [len(bias)], *_AROUND, ctx.needs_input_grad
    )
    return tuple(
        g.to(t.dtype) if w else None
        for g, t, w in zip(found, (x, weight, bias), ctx.needs_input_grad, strict=True)
    )


def _are_biases_better_channels(maps: Sequence[Tensor], smooths: Sequence[Conv]) -> bool:
    """Whether the biases of the 3x3 cost less as further channels than as passes of their own."""
    images, _, height, width = maps[0].shape
    return len(maps) > 1 and images * len(smooths[0][0]) * height * width >= LEAST_NUMBERS
