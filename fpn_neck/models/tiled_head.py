"""Photos that are too large to be computed at once: the local part of a segmenter runs in tiles.

Up to the first convolution of each tower of the head, a cell depends only on pixels near it, so
overlapping tiles give the same as the whole photo. The rest still runs over whole maps: norms with
statistics of a map, upsampling to sizes that are not multiples, the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from math import log2
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fpn_neck.fast.cpu.conv3x3 import run_conv
from fpn_neck.fast.eligible import has_global_hooks, is_unmodified, keeps
from fpn_neck.models.layers import ConvNormAct
from fpn_neck.models.seg_head import ScaleHeads
from fpn_neck.strips.row_map import RowMap
from fpn_neck.utils.sizes import ceil_div
from fpn_neck.utils.values import check_whole

PHOTO_TILE = 1216  # px
PHOTO_MARGIN = 256  # px that a tile has around its used part
# px; a multiple of every stride, or a tile's cells would lie between the photo's.
PHOTO_ALIGNMENT = 32
_BLOCK_BYTES = 8 << 20

# (rows, columns) of a photo -> the pyramid of this part, maps (1, C_i, h_i, w_i), finest first.
PyramidOf = Callable[[slice, slice], Sequence[Tensor]]


def is_large(size: Sequence[int], tile: int | None) -> bool:
    """Whether a photo of size (H, W) is computed in tiles: it has more pixels than two tiles.

    Raises:
        TypeError, ValueError: ``tile`` is neither None nor a whole number of at least three
            margins.
    """
    if tile is None:
        return False
    return size[0] * size[1] > 2 * check_whole("tile", tile, 3 * PHOTO_MARGIN) ** 2


def can_tile(model: nn.Module, head: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `logits_by_tiles` does what the head does, and all of the model is in eval mode.

    Tiles call neither the head nor its towers. They call backbone and neck once for a tile, dropout
    and classifier once for a few rows. So these turn them off: a forward of a subclass of the head,
    a forward hook on any part of the model, a norm of backbone or neck with statistics of its map,
    a level coarser than `PHOTO_ALIGNMENT`, a classifier that looks at more than a cell.

    Args:
        model: that the head is a part of.
        kind: the class with ``scale_heads`` that the head must run as.
    """
    heads = getattr(head, "scale_heads", None)
    return (
        not any(module.training for module in model.modules())
        and _runs_as(kind, head)
        and _classifies_cells(kind, head)
        and isinstance(heads, ScaleHeads)
        and _runs_as(ScaleHeads, heads)
        and all(PHOTO_ALIGNMENT % stride == 0 for stride in heads.strides)
        and not has_global_hooks()
        and not any(map(_is_watched, model.modules()))
        and all(is_unmodified(module) for module in head.modules())
        and not any(_has_norms_of_maps(getattr(model, part, None)) for part in ("backbone", "neck"))
        and all(_is_supported_tower(tower) for tower in heads)
    )


def _runs_as(kind: type[nn.Module], module: nn.Module) -> bool:
    return isinstance(module, kind) and keeps(module, kind, "forward")


def _is_watched(module: nn.Module) -> bool:
    """Whether it has a forward hook, but for those by which timm takes the maps of some models."""
    hooks = (getattr(hook, "func", hook) for hook in module._forward_hooks.values())
    return not all(getattr(hook, "__module__", "").startswith("timm.") for hook in hooks)


def _classifies_cells(kind: type[nn.Module], head: nn.Module) -> bool:
    """Whether dropout and classifier are those of the class, and look at one cell at a time."""
    classifier = head.conv_seg
    return (
        (not hasattr(kind, "cls_seg") or keeps(head, kind, "cls_seg"))
        and (head.dropout is None or type(head.dropout) is nn.Dropout2d)
        and type(classifier) is nn.Conv2d
        and (*classifier.kernel_size, *classifier.stride) == (1, 1, 1, 1)
        and set(classifier.padding) == {0}
    )


def _has_norms_of_maps(part: nn.Module | None) -> bool:
    """Whether a norm takes its statistics from the map, so that each tile has other ones."""
    return part is not None and any(
        isinstance(module, nn.GroupNorm)
        or isinstance(module, (_BatchNorm, nn.InstanceNorm2d))
        and module.running_mean is None
        for module in part.modules()
    )


def _is_supported_tower(tower: nn.Module) -> bool:
    return (
        _runs_as(nn.Sequential, tower)
        and all(type(m) is nn.Upsample or _runs_as(ConvNormAct, m) for m in tower.children())
        and _is_supported(_norm(_first_block(cast(nn.Sequential, tower))))
    )


def _is_supported(norm: nn.Module | None) -> bool:
    """None, GN, or BN with running statistics."""
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        batch_norm = cast(_BatchNorm, norm)
        return batch_norm.running_mean is not None
    return norm is None or type(norm) is nn.GroupNorm


@torch.no_grad()
def logits_by_tiles(
    pyramid_of: PyramidOf,
    size: Sequence[int],
    heads: ScaleHeads,
    classify: nn.Module,
    tile: int = PHOTO_TILE,
) -> RowMap:
    """``classify(heads(pyramid))`` of one photo without its whole pyramid.

    The result differs only by the influence of pixels farther away than `PHOTO_MARGIN`, and by
    rounding: between the tiles, maps are kept in float16. Memory is that of one tile and of one map
    per level, as wide as the towers.

    Args:
        pyramid_of: computes a part of the photo's pyramid, see `PyramidOf`.
        size: (H, W) of the photo.
        heads, classify: the parts of the head; `can_tile` says whether they are supported.
        tile: approximate length of a tile's sides in pixels.

    Returns:
        Logits (1, K, h, w) at the finest stride, all finite.

    Raises:
        ValueError: a map does not have ``ceil(size / stride)`` cells.
    """
    maps = _first_convs(pyramid_of, size, heads, tile)
    finest, block = maps.pop(0), _first_block(_towers(heads)[0])
    coarser = _coarser_maps(heads, maps, finest.shape[-2:])
    norm = _with_statistics_of(finest, _norm(block))

    @torch.no_grad()
    def rows(start: int, end: int) -> Tensor:
        x = norm(finest[:, :, start:end].to(_weight_dtype(block), copy=True))
        parts = [block.activate(x) if block.activate else x]
        parts += [level.rows(start, end) for level in coarser]
        merged = torch.cat(parts, 1) if heads.merge == "cat" else sum(parts[1:], parts[0])
        return classify(merged.to(_weight_dtype(block)))  # resized parts are float32

    top_row = rows(0, 1)
    return RowMap((1, top_row.shape[1], *finest.shape[-2:]), top_row, rows).finite()


class Span(NamedTuple):
    """The used pixels start..end - 1 of a tile along one axis, and ``seen``, all its pixels."""

    start: int
    end: int
    seen: slice


def spans(length: int, tile: int) -> list[Span]:
    """Tiles along one axis of a photo.

    They begin at multiples of `PHOTO_ALIGNMENT` and are as long as the photo modulo
    `PHOTO_ALIGNMENT`: layers whose padding depends on the size then pad each tile as they pad the
    photo. All have one length, so that a tile can use the memory that the one before has freed.
    """
    if length <= tile:
        return [Span(0, length, slice(0, length))]
    overlap = 2 * PHOTO_MARGIN + PHOTO_ALIGNMENT
    count = ceil_div(length - overlap, tile - overlap)
    least = ceil_div(length - overlap, count) + overlap
    seen = least + (length - least) % PHOTO_ALIGNMENT
    starts = [
        (length - seen) * i // max(1, count - 1) // PHOTO_ALIGNMENT * PHOTO_ALIGNMENT
        for i in range(count)
    ]
    cuts = [(a + seen + b) // 2 // PHOTO_ALIGNMENT * PHOTO_ALIGNMENT for a, b in pairwise(starts)]
    bounds = pairwise([0, *cuts, length])
    return [Span(a, b, slice(x, x + seen)) for (a, b), x in zip(bounds, starts, strict=True)]


def _first_convs(
    pyramid_of: PyramidOf, size: Sequence[int], heads: ScaleHeads, tile: int
) -> list[Tensor]:
    """Results of the first convolution of every tower for the whole photo, finest first."""
    stitched: list[_StitchedMap] = []
    for y, x in product(*(spans(length, tile) for length in size)):
        pyramid = list(pyramid_of(y.seen, x.seen))
        for i, tower in enumerate(_towers(heads)):
            part = run_conv(_first_block(tower).conv, pyramid.pop(0))  # frees the level
            if len(stitched) == i:
                stitched.append(_StitchedMap(size, part, (y, x)))
            stitched[i].put(part, (y, x))
    return [whole.cells for whole in stitched]


class _StitchedMap:
    """A map of the whole photo, put together from tiles."""

    def __init__(self, size: Sequence[int], part: Tensor, at: tuple[Span, Span]) -> None:
        seen = [span.seen.stop - span.seen.start for span in at]
        self.stride = 2 ** round(log2(max(seen) / max(part.shape[-2:])))
        dtype = torch.float16 if part.dtype == torch.float32 else part.dtype
        whole = [self._count(length) for length in size]
        self.cells = part.new_empty(1, part.shape[1], *whole, dtype=dtype)

    def put(self, part: Tensor, at: tuple[Span, Span]) -> None:
        expected = [self._count(span.seen.stop - span.seen.start) for span in at]
        if list(part.shape[-2:]) != expected or PHOTO_ALIGNMENT % self.stride:
            raise ValueError(
                f"a tile's map of {tuple(part.shape[-2:])} cells does not fit stride "
                f"{self.stride}: this model takes only whole photos; set tile=None"
            )
        (part_rows, rows), (part_columns, columns) = (self._slices(span) for span in at)
        part = part[..., part_rows, part_columns]
        if self.cells.dtype == torch.float16:
            largest, limits = part.abs().max(), torch.finfo(torch.float16)
            if largest > limits.max or 0 < largest < limits.tiny:
                self.cells = self.cells.to(part.dtype)
        self.cells[..., rows, columns] = part

    def _slices(self, span: Span) -> tuple[slice, slice]:
        """Positions of a span's cells in its tile and in the whole map."""
        start, end = span.start // self.stride, self._count(span.end)
        shift = span.seen.start // self.stride
        return slice(start - shift, end - shift), slice(start, end)

    def _count(self, length: int) -> int:
        return ceil_div(length, self.stride)


def _coarser_maps(heads: ScaleHeads, maps: list[Tensor], size: Sequence[int]) -> list[RowMap]:
    """Results of all towers except the finest, at the finest size; sums, if towers are added.

    Args:
        maps: results of their first convolutions; the list is emptied, to free them.
    """
    ends: list[tuple[bool, Tensor]] = []
    for tower, is_coarser in zip(_towers(heads)[1:], heads.is_coarser[1:], strict=True):
        x = _finish_tower(tower, maps.pop(0))
        same_size = [y for c, y in ends if c == is_coarser and y.shape == x.shape]
        if same_size and heads.merge == "add":
            same_size[0].add_(x)
        else:
            ends.append((is_coarser, x))
    resized: list[RowMap] = []
    for is_coarser, x in ends:
        rows = RowMap.from_tensor(x)
        if is_coarser:
            rows = rows.resize([2 * n for n in x.shape[-2:]], heads.align_corners)
        resized.append(rows.resize(size, heads.align_corners))
    return resized


def _finish_tower(tower: nn.Sequential, x: Tensor) -> Tensor:
    """From the result of a tower's first convolution to the tower's; frees maps early."""
    block = _first_block(tower)
    x = _after_conv(block, x.to(_weight_dtype(block)))
    for module in tower[1:]:
        if isinstance(module, ConvNormAct):
            x = run_conv(module.conv, x)
            x = _after_conv(module, x)
        else:
            x = module(x)
    return x


def _blocks(x: Tensor) -> Iterator[tuple[int, int]]:
    """All rows in order, a few MiB at a time: the first row and the one after the last."""
    height, row = x.shape[2], x[:, :, :1].nbytes
    step = max(1, _BLOCK_BYTES // row)
    for start in range(0, height, step):
        yield start, min(start + step, height)


def _after_conv(block: ConvNormAct, x: Tensor) -> Tensor:
    norm = _norm(block)
    x = x if norm is None else norm(x)
    return block.activate(x) if block.activate else x


def _towers(heads: ScaleHeads) -> list[nn.Sequential]:
    return cast("list[nn.Sequential]", list(heads))


def _first_block(tower: nn.Sequential) -> ConvNormAct:
    return cast(ConvNormAct, tower[0])


def _weight_dtype(block: ConvNormAct) -> torch.dtype:
    return cast(nn.Conv2d, block.conv).weight.dtype


def _norm(block: ConvNormAct) -> nn.Module | None:
    return getattr(block, block.norm_name) if block.norm_name else None


def _with_statistics_of(x: Tensor, norm: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """The norm for some rows of x, with the statistics of all rows."""
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
