"""The fast path of `fpn_neck.FPN` on a GPU: what is checked before the kernels, and when.

The GPU waits until Python has launched the first kernel. So the finest lateral, which takes the
longest, is launched first; only what it needs is checked before. Maps are checked once for each
signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fpn_neck.fast.cuda_operators import recorded_pyramid
from fpn_neck.fast.cuda_pyramid import Conv, cuda_pyramid, memory_format_of, start_lateral
from fpn_neck.fast.eligible import PLAIN_TYPES, are_for_triton, takes_triton
from fpn_neck.fast.memory_format import is_half
from fpn_neck.models.fpn_paths.cpu import plain_conv
from fpn_neck.utils.arguments import check_maps

_MOST_SIGNATURES = 1024  # of images of many sizes
_known: set[tuple] = set()


def start_finest(laterals: nn.Module, maps: object, level: int) -> list[Tensor]:
    """The finest lateral of maps that are not checked yet; [] if no kernel serves them.

    Args:
        laterals: the list of 1x1 blocks, finest first.
        maps: what the neck got. level: of the finest map that it uses.
    """
    if not isinstance(maps, (list, tuple)) or len(maps) <= level:
        return []
    x = maps[level]
    if type(x) not in PLAIN_TYPES or x.dim() != 4 or not takes_triton(x):
        return []
    # Here every call of torch's is a tenth of a microsecond, and an iteration over modules one.
    blocks = cast("dict[str, nn.Module]", laterals._modules)
    conv = plain_conv(next(iter(blocks.values())), 1)
    if conv is None or type(conv[0]) not in PLAIN_TYPES or x.size(1) != conv[0].size(1):
        return []
    if is_half(x):
        x = x.contiguous(memory_format=torch.channels_last)
    elif not x.is_contiguous():
        x = x.contiguous(memory_format=memory_format_of((x,)))
    return [start_lateral(x, conv, is_coarsest=len(blocks) == 1)]


def kernels_serve(owner: str, maps: Sequence[Tensor], channels: Sequence[int], used: slice) -> bool:
    """`check_maps`, then whether kernels serve all maps; both once for each signature."""
    signature = None
    if {type(x) for x in maps} <= PLAIN_TYPES:
        signature = tuple(channels), *[(x.shape, x.dtype, x.device, x.layout) for x in maps]
        if signature in _known:
            return True
    check_maps(owner, maps, channels, used)
    if not are_for_triton(*maps):
        return False
    if signature is not None and len({x.dtype for x in maps}) == 1:  # else autocast decides
        if len(_known) >= _MOST_SIGNATURES:
            _known.clear()
        _known.add(signature)
    return True


def pyramid_on_gpu(
    laterals: Sequence[nn.Module],
    smooths: Sequence[nn.Module],
    maps: Sequence[Tensor],
    started: list[Tensor],
) -> tuple[list[Tensor], Tensor] | None:
    """The paper's pyramid, or None: a block is not a plain convolution with bias on the GPU.

    Args:
        laterals: 1x1 blocks, one per map.
        smooths: 3x3 blocks, one per map, or none.
        maps: C2..C5, (N, C_i, H_i, W_i), finest first, that kernels serve.
        started: of `start_finest`; it is emptied.

    Returns:
        P2..P5, each in the memory format of its map, and the coarsest lateral in any format.
    """
    convs = _plain_convs(laterals, smooths)
    if convs is None or not are_for_triton(maps[0], *(t for conv in convs for t in conv)):
        started.clear()
        return None
    return cuda_pyramid(maps, convs[: len(laterals)], convs[len(laterals) :], started)


def pyramid_in_graph(
    laterals: Sequence[nn.Module], smooths: Sequence[nn.Module], maps: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor] | None:
    """As `pyramid_on_gpu`, while torch.compile records what is called."""
    convs = _plain_convs(laterals, smooths)
    if convs is None or len({x.dtype for x in maps}) > 1:
        return None
    return recorded_pyramid(maps, convs[: len(laterals)], convs[len(laterals) :])


def _plain_convs(laterals: Sequence[nn.Module], smooths: Sequence[nn.Module]) -> list[Conv] | None:
    convs: list[Conv] = []
    for blocks, kernel in (laterals, 1), (smooths, 3):
        for block in blocks:
            conv = plain_conv(block, kernel)
            if conv is None:
                return None
            convs.append(conv)
    return convs
