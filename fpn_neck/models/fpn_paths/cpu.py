"""The fast path of `fpn_neck.FPN`: laterals, top-down path and 3x3 convolutions together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fpn_neck.fast.cpu.conv3x3 import conv3x3, conv3x3_rows, run_conv, winograd_is_faster
from fpn_neck.fast.cpu.merge import has_half_size, merge, merged_rows
from fpn_neck.fast.eligible import (
    are_plain_tensors,
    is_plain_conv,
    is_unmodified,
)
from fpn_neck.fast.memory_format import is_channels_last
from fpn_neck.models.layers import ConvNormAct


class _BiasedConv(nn.Conv2d):
    """What `takes_fast_path` has checked, for the type checker."""

    bias: Tensor


def takes_fast_path(
    blocks: Callable[[], tuple[Sequence[nn.Module], Sequence[nn.Module]]],
    maps: Sequence[Tensor],
    out_channels: int,
) -> bool:
    """Whether `fast_pyramid` gives what these blocks give, and is faster.

    Args:
        blocks: gives laterals and smoothing blocks, which must be plain 1x1 and 3x3 convolutions
            with bias. It is called where the finest map is large enough, on the CPU.
    """
    if not winograd_is_faster(maps[0], out_channels, out_channels):
        return False
    laterals, smooths = blocks()
    convs = [*(plain_conv(b, 1) for b in laterals), *(plain_conv(b, 3) for b in smooths)]
    if None in convs:
        return False
    return are_plain_tensors(*maps, *(t for conv in convs if conv for t in conv))


def plain_conv(block: nn.Module, kernel: int) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a block that is only a plain convolution with bias; else None.

    They may be others than the registered parameters, e.g. under FSDP.
    """
    if type(block) is not ConvNormAct or not is_unmodified(block):
        return None
    if block.norm_name is not None or block.activate is not None:
        return None
    conv = block._modules["conv"]  # nn.Module.__getattr__ takes half a microsecond
    if conv is None or not is_plain_conv(conv, kernel):
        return None
    registered = conv._parameters
    weight, bias = registered.get("weight"), registered.get("bias")
    weight = conv.weight if weight is None else weight  # type: ignore[assignment]
    bias = conv.bias if bias is None else bias  # type: ignore[assignment]
    return None if weight is None or bias is None else (weight, bias)


def _convs(blocks: Sequence[nn.Module]) -> list[_BiasedConv]:
    return [block._modules["conv"] for block in blocks]  # type: ignore[misc]  # see _BiasedConv


def fast_pyramid(
    laterals: Sequence[nn.Module], smooths: Sequence[nn.Module], maps: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The paper's pyramid, for blocks and maps that `takes_fast_path`.

    Args:
        laterals: 1x1 blocks, one per map.
        smooths: 3x3 blocks, one per map, or none.
        maps: C2..C5, (N, C_i, H_i, W_i), finest first.

    Returns:
        P2..P5, each in the memory format of its map, and the coarsest lateral in any format.
    """
    lateral_convs, smooth_convs = _convs(laterals), _convs(smooths)
    tensors = [*maps, *(t for c in (*lateral_convs, *smooth_convs) for t in (c.weight, c.bias))]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    outs: list[Tensor] = []
    merged: list[Tensor] = []
    for i in reversed(range(len(maps))):
        x, above = maps[i], merged[0] if merged else None
        lateral, channels_last = lateral_convs[i], is_channels_last(x)
        if not smooth_convs:
            merged.insert(0, merge(x, lateral.weight, lateral.bias, above, channels_last))
            continue
        conv = smooth_convs[i]
        by_winograd = winograd_is_faster(x, conv.in_channels, conv.out_channels)
        if (
            i == 0
            and by_winograd
            and not needs_grad
            and above is not None
            and has_half_size(above, x)
        ):
            # Only this convolution needs the finest merged map: it never exists as a whole.
            rows = merged_rows(x, lateral.weight, lateral.bias, above)
            outs.insert(0, conv3x3_rows(rows, x, conv.weight, conv.bias, channels_last, conv))
            break
        x = merge(x, lateral.weight, lateral.bias, above, by_winograd or channels_last)
        merged.insert(0, x)
        if by_winograd:
            outs.insert(0, conv3x3(x, conv.weight, conv.bias, channels_last, conv))
        else:
            outs.insert(0, run_conv(conv, x.to(conv.weight.dtype)))
    if not smooth_convs:
        outs = [x.to(maps[0].dtype) for x in merged]
    return outs, merged[-1].to(maps[-1].dtype)
