"""Photos too large to be seen at once: what is local in a segmenter is computed tile by tile.

Up to the first convolution of each of the head's towers a cell depends on pixels near it: there,
overlapping tiles give what the whole photo gives. The rest is taken over whole maps, as ever: norms
with statistics of a map, upsampling to sizes that are no multiple, the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from math import log2
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fpn_neck.fast.cpu.conv3x3 import run_conv
from fpn_neck.models.layers import ConvNormAct
from fpn_neck.models.seg_head import ScaleHeads
from fpn_neck.strips.row_map import RowMap
from fpn_neck.utils.arguments import check_whole

TILE = 1216  # px
MARGIN = 256  # px that a tile sees around what it gives
ALIGNED = 32  # px; a multiple of every stride, or a tile's cells would lie between the photo's
_BLOCK_BYTES = 8 << 20

# Rows and columns of a photo -> its pyramid there.
See = Callable[[slice, slice], Sequence[Tensor]]


def is_large(size: Sequence[int], tile: int | None) -> bool:
    """Whether a photo of size (H, W) is taken in tiles: it has more pixels than two tiles.

    Raises:
        TypeError, ValueError: ``tile`` is neither None nor a whole number with room for margins.
    """
    if tile is None:
        return False
    return size[0] * size[1] > 2 * check_whole("tile", tile, 3 * MARGIN) ** 2


def fits(model: nn.Module, heads: nn.Module | None) -> bool:
    """Whether `logits_by_tiles` knows the head, and the model is in eval mode."""
    return (
        not model.training
        and isinstance(heads, ScaleHeads)
        and all(_is_known(_norm(tower[0])) for tower in heads)
    )


def _is_known(norm: nn.Module | None) -> bool:
    """None, GN, or BN with statistics of its own."""
    if isinstance(norm, _BatchNorm):
        return not norm.training and norm.running_mean is not None
    return norm is None or isinstance(norm, nn.GroupNorm)


@torch.no_grad()
def logits_by_tiles(
    see: See, size: Sequence[int], heads: ScaleHeads, classify: nn.Module, tile: int = TILE
) -> RowMap:
    """``classify(heads(pyramid))`` of one photo without its pyramid.

    Equal but for what a cell sees of pixels farther away than `MARGIN`, and for rounding: while
    tiles are seen, maps wait in float16. Memory is that of a tile and of a map per level as wide as
    the towers.

    Args:
        size: (H, W) of the photo.
        heads, classify: the parts of the head, see `fits`.
        tile: about how many pixels a tile has on each side.

    Returns:
        Logits (1, K, h, w) at the finest stride.

    Raises:
        ValueError: maps that don't have ``ceil(size / stride)`` cells.
    """
    stems = _stems(see, size, heads, tile)
    finest, block = stems.pop(0), heads[0][0]
    coarser = _coarser(heads, stems, finest.shape[-2:])
    norm = _with_statistics_of(finest, _norm(block))

    @torch.no_grad()
    def rows(start: int, end: int) -> Tensor:
        x = norm(finest[:, :, start:end].to(block.conv.weight.dtype, copy=True))
        maps = [block.activate(x) if block.activate else x]
        maps += [x.rows(start, end) for x in coarser]
        return classify(torch.cat(maps, 1) if heads.merge == "cat" else sum(maps[1:], maps[0]))

    first = rows(0, 1)
    return RowMap((1, first.shape[1], *finest.shape[-2:]), first, rows)


class Span(NamedTuple):
    """Pixels start..end - 1, of a tile that sees more than that."""

    start: int
    end: int
    seen: slice


def spans(length: int, tile: int) -> list[Span]:
    """Tiles along one axis of a photo.

    They begin at multiples of `ALIGNED`, and their length is the photo's modulo `ALIGNED`: layers
    that pad by what is odd about a size then pad each tile as they pad the photo. All are of one
    length: what one tile leaves to the allocator fits the next.
    """
    if length <= tile:
        return [Span(0, length, slice(0, length))]
    overlap = 2 * MARGIN + ALIGNED
    count = -(-(length - overlap) // (tile - overlap))
    least = -(-(length - overlap) // count) + overlap
    seen = least + (length - least) % ALIGNED
    starts = [(length - seen) * i // max(1, count - 1) // ALIGNED * ALIGNED for i in range(count)]
    cuts = [(a + seen + b) // 2 // ALIGNED * ALIGNED for a, b in pairwise(starts)]
    bounds = pairwise([0, *cuts, length])
    return [Span(a, b, slice(x, x + seen)) for (a, b), x in zip(bounds, starts, strict=True)]


def _stems(see: See, size: Sequence[int], heads: ScaleHeads, tile: int) -> list[Tensor]:
    """What the first convolution of every tower gives, over the whole photo, finest first."""
    wholes: list[_Whole] = []
    for y, x in product(*(spans(length, tile) for length in size)):
        pyramid = list(see(y.seen, x.seen))
        for i, tower in enumerate(heads):
            part, pyramid[i] = run_conv(tower[0].conv, pyramid[i]), None
            if len(wholes) == i:
                wholes.append(_Whole(size, part, (y, x)))
            wholes[i].put(part, (y, x))
    return [whole.cells for whole in wholes]


class _Whole:
    """A map of the whole photo that is put together from tiles."""

    def __init__(self, size: Sequence[int], part: Tensor, at: tuple[Span, Span]) -> None:
        seen = [span.seen.stop - span.seen.start for span in at]
        self.stride = 2 ** round(log2(max(seen) / max(part.shape[-2:])))
        dtype = torch.float16 if part.dtype == torch.float32 else part.dtype
        whole = [self._count(length) for length in size]
        self.cells = part.new_empty(1, part.shape[1], *whole, dtype=dtype)

    def put(self, part: Tensor, at: tuple[Span, Span]) -> None:
        expected = [self._count(span.seen.stop - span.seen.start) for span in at]
        if list(part.shape[-2:]) != expected or ALIGNED % self.stride:
            raise ValueError(
                f"a tile's map has {tuple(part.shape[-2:])} cells, not {tuple(expected)} at stride "
                f"{self.stride}: this model takes photos as a whole only; set tile=None"
            )
        from_, to = zip(*(self._slices(span) for span in at), strict=True)
        part = part[(..., *from_)]
        if self.cells.dtype == torch.float16 and part.abs().max() > torch.finfo(torch.float16).max:
            self.cells = self.cells.to(part.dtype)
        self.cells[(..., *to)] = part

    def _slices(self, span: Span) -> tuple[slice, slice]:
        """Where the cells of a span are in its tile, and where in the whole."""
        start, end = span.start // self.stride, self._count(span.end)
        shift = span.seen.start // self.stride
        return slice(start - shift, end - shift), slice(start, end)

    def _count(self, length: int) -> int:
        return -(-length // self.stride)


def _coarser(heads: ScaleHeads, stems: list[Tensor], size: Sequence[int]) -> list[RowMap]:
    """The ends of all towers but the finest, at its size; summed before if they will be."""
    ends: list[tuple[bool, Tensor]] = []
    for tower, is_coarser in zip(list(heads)[1:], heads.is_coarser[1:], strict=True):
        x = _tower_end(tower, stems.pop(0))
        known = [y for c, y in ends if c == is_coarser and y.shape == x.shape]
        if known and heads.merge == "add":
            known[0].add_(x)
        else:
            ends.append((is_coarser, x))
    maps: list[RowMap] = []
    for is_coarser, x in ends:
        rows = RowMap.of(x)
        if is_coarser:
            rows = rows.resize([2 * n for n in x.shape[-2:]], heads.align_corners)
        maps.append(rows.resize(size, heads.align_corners))
    return maps


def _tower_end(tower: nn.Sequential, x: Tensor) -> Tensor:
    """What a tower makes of what its first convolution gave; holds no map longer than needed."""
    x = _after_conv(tower[0], x.to(tower[0].conv.weight.dtype))
    for module in tower[1:]:
        if isinstance(module, ConvNormAct):
            x = run_conv(module.conv, x)
            x = _after_conv(module, x)
        else:
            x = module(x)
    return x


def _blocks(x: Tensor) -> Iterator[tuple[int, int]]:
    """All rows in order, a few MiB at a time: the first, and the one after the last."""
    height, row = x.shape[2], x[:, :, :1].nbytes
    step = max(1, _BLOCK_BYTES // row)
    for start in range(0, height, step):
        yield start, min(start + step, height)


def _after_conv(block: ConvNormAct, x: Tensor) -> Tensor:
    norm = _norm(block)
    x = x if norm is None else norm(x)
    return block.activate(x) if block.activate else x


def _norm(block: ConvNormAct) -> nn.Module | None:
    return getattr(block, block.norm_name) if block.norm_name else None


def _with_statistics_of(x: Tensor, norm: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """The norm for some rows of x, as if they were all of x."""
    if norm is None:
        return lambda rows: rows
    if not isinstance(norm, nn.GroupNorm):
        return norm
    counts, means, squares = [], [], []
    for start, end in _blocks(x):
        groups = x[:, :, start:end].float().reshape(norm.num_groups, -1)
        var, mean = torch.var_mean(groups, 1, correction=0)
        counts.append(groups.shape[1])
        means.append(mean.double())
        squares.append(var.double() + mean.double() ** 2)
    share = torch.tensor(counts).to(means[0]) / sum(counts)
    mean = share @ torch.stack(means)
    scale = (share @ torch.stack(squares) - mean**2 + norm.eps).rsqrt()
    repeats = x.shape[1] // norm.num_groups
    scale, shift = (t.repeat_interleave(repeats) for t in (scale, -mean * scale))
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    scale, shift = scale[:, None, None], shift[:, None, None]
    return lambda rows: torch.addcmul(shift.to(rows), rows, scale.to(rows))
