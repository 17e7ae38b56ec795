"""The whole of `fpn_neck.FPN` on the fast paths: laterals, top-down path, 3x3 convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpn_neck.fast.cpu.conv3x3 import conv3x3, conv3x3_rows, is_worth
from fpn_neck.fast.cpu.merge import is_half, merge, merged_rows
from fpn_neck.fast.eligible import eager, plain_conv, plain_tensors, untouched
from fpn_neck.fast.memory_format import in_layout_of, is_channels_last
from fpn_neck.models.layers import ConvNormAct

if TYPE_CHECKING:
    from fpn_neck.models.fpn import FPN


def fits(fpn: FPN, maps: Sequence[Tensor]) -> bool:
    """Whether `pyramid` computes what ``fpn`` says, and sooner.

    That is the paper's neck (each level its own plain 1x1 and 3x3 with bias, nearest upsampling),
    or the same without a 3x3, on the CPU, eagerly, with a finest map that is large enough.
    """
    if not eager() or not is_worth(maps[0], fpn.out_channels, fpn.out_channels):
        return False
    papers = fpn.smooth != "chained" and fpn.top_down and fpn.laterals and _has_own_path(fpn)
    if not papers or fpn.upsample_cfg != {"mode": "nearest"} or len({len(x) for x in maps}) > 1:
        return False
    laterals, smooths = fpn.lateral_convs, fpn.fpn_convs[: fpn.num_smooth]
    blocks = [*laterals, *smooths]
    return (
        all(_is_plain(b, 1) for b in laterals)
        and all(_is_plain(b, 3) for b in smooths)
        and plain_tensors(*maps, *(p for b in blocks for p in (b.conv.weight, b.conv.bias)))
    )


def _has_own_path(fpn: FPN) -> bool:
    """Not a subclass's top-down path, nor one that was put in its place."""
    return getattr(fpn._top_down_path, "__module__", None) == "fpn_neck.models.fpn"


def _is_plain(block: nn.Module, kernel: int) -> bool:
    return (
        type(block) is ConvNormAct
        and untouched(block)
        and block.norm_name is None
        and block.activate is None
        and plain_conv(block.conv, kernel)
        and block.conv.bias is not None
    )


def pyramid(fpn: FPN, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """P2..P5, each in the layout of its C2..C5, and the coarsest lateral."""
    # Not the registered parameters: under FSDP, say, the tensors in use are others.
    convs = [b.conv for b in (*fpn.lateral_convs, *fpn.fpn_convs[: fpn.num_smooth])]
    in_use = [*maps, *(t for conv in convs for t in (conv.weight, conv.bias))]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in in_use)
    outs: list[Tensor] = []
    merged: list[Tensor] = []
    for i in reversed(range(len(maps))):
        x, above = maps[i], merged[0] if merged else None
        lateral, last = fpn.lateral_convs[i].conv, is_channels_last(x)
        if not fpn.num_smooth:
            merged.insert(0, merge(x, lateral.weight, lateral.bias, above, last))
            continue
        smooth = fpn.fpn_convs[i].conv
        worth = is_worth(x, fpn.out_channels, fpn.out_channels)
        if i == 0 and worth and not needs_grad and len(maps) > 1 and is_half(above, x):
            # Nobody else needs the finest merged map, so it never exists as a whole.
            rows = merged_rows(x, lateral.weight, lateral.bias, above)
            outs.insert(0, conv3x3_rows(rows, x, smooth.weight, smooth.bias, last, smooth))
            break
        x = merge(x, lateral.weight, lateral.bias, above, channels_last=worth or last)
        merged.insert(0, x)
        if worth:
            outs.insert(0, conv3x3(x, smooth.weight, smooth.bias, last, smooth))
        else:
            outs.insert(
                0, F.conv2d(x.to(smooth.weight.dtype), smooth.weight, smooth.bias, padding=1)
            )
    if not fpn.num_smooth:
        outs = [x.to(maps[0].dtype) for x in merged]
    lateral = merged[-1].to(maps[-1].dtype)
    if fpn.extra_source == "on_lateral":  # nobody else looks at its layout
        lateral = in_layout_of(lateral, maps[-1])
    return outs, lateral
