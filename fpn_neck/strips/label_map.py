"""From logits to labels at another size, without the logits at that size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.fast.cuda.labels import cells_to_labels
from fpn_neck.fast.eligible import eager, takes_triton
from fpn_neck.fast.memory_format import compute_dtype
from fpn_neck.strips.bilinear_taps import Taps
from fpn_neck.strips.row_map import RowMap, strip_bytes
from fpn_neck.utils.arguments import check_float_map
from fpn_neck.utils.operators import operator
from fpn_neck.utils.sizes import check_map_size, resize
from fpn_neck.utils.values import check_flag

_PIXELS = 1 << 16  # labelled at a time
_BORDER_LOGITS = 1 << 20  # resized at a time


@torch.no_grad()
def label_map(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """``argmax(resize(logits, size))``, or ``resize(logit, size) > 0`` for one logit, in strips.

    Memory besides the result is a few MiB and some numbers for each row and column; all logits of
    194 classes at 2000 x 3000 px take 4.7 GB. Labels are the same except where two logits tie
    within rounding.

    Args:
        logits: (N, K, h, w), floating point.
        size: (H, W) of the result.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        Labels (N, H, W), int64 in 0..K-1; 0 or 1 for one logit.

    Raises:
        TypeError, ValueError: an argument has another type or shape; the message names it.
    """
    check_float_map("logits", logits)
    check_flag("align_corners", align_corners)
    check_map_size(size)
    return label_map_in_graph(logits, size, align_corners)


def label_map_in_graph(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """`label_map` for torch.compile, torch.export and traces."""
    if not torch.jit.is_tracing():
        return label_map_operator(logits, *size, align_corners)
    # A trace makes constants of an operator's numbers.
    limits = torch.finfo(logits.dtype)
    maps = resize(logits.clamp(limits.min, limits.max), size, align_corners)
    return maps.argmax(1) if maps.shape[1] > 1 else (maps[:, 0] > 0).long()


@operator("label_map", "(Tensor logits, SymInt height, SymInt width, bool align_corners) -> Tensor")
def label_map_operator(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """`label_map` as an operator of torch, for torch.compile and torch.export."""
    labels = logits.new_empty((len(logits), height, width), dtype=torch.int64)
    one_by_one = logits.device.type == "cpu" and not takes_triton(logits)
    together = 1 if one_by_one else max(1, len(logits))
    with torch.no_grad():
        for i in range(0, len(logits), together):
            images = slice(i, i + together)
            maps = RowMap.from_tensor(logits[images])
            if not takes_triton(logits):  # the kernel needs no copy: it never takes 0 * infinity
                maps = maps.finite()
            fill_labels(maps.resize((height, width), align_corners), labels[images])
    return labels


@torch.library.register_fake(label_map_operator)
def _(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return logits.new_empty((logits.shape[0], height, width), dtype=torch.int64)


def fill_labels(logits: RowMap, labels: Tensor) -> None:
    """Write the largest logit's index into ``labels`` (N, H, W), a few rows at a time.

    For one logit: 1 where it is above 0, else 0.

    A pixel's logits are weighted means of the logits of a few cells of the source. A class that has
    the largest logit in all these cells has it in the pixel, too. So only the borders between
    classes need resized logits.
    """
    if takes_triton(logits.like):
        return _fill_by_triton(logits, labels)
    if logits.shape[1] == 1:
        logits = logits.binary()
    if len(labels) > 1 or labels.device.type != "cpu" or not eager():
        for rows, strip in logits.strips():
            labels[:, rows] = strip.max(1).indices  # on a CPU in half the time of argmax
        return
    height, width = labels.shape[1:]
    step = max(1, _PIXELS // max(1, width))
    for start in range(0, height, step):
        down = logits.taps[0].part(start, min(start + step, height))
        _fill_rows(logits.source, down, logits.taps[1], labels[0, start : start + step])


def fill_most_probable(views: Sequence[RowMap], labels: Tensor) -> None:
    """Write the label of the largest mean probability into ``labels``, a few rows at a time.

    For one logit: 1 where the mean of its sigmoids is above 0.5, else 0.

    Args:
        views: logits (1, K, H, W) of one image; their softmax is the probability.
        labels: (H, W), int64.
    """
    if views[0].shape[1] == 1:
        views = [view.binary() for view in views]
    for rows, first in views[0].strips():
        total = first.softmax(1)
        for view in views[1:]:
            total += view.rows(rows.start, rows.stop).softmax(1)
        labels[rows] = total[0].max(0).indices


def _fill_by_triton(logits: RowMap, labels: Tensor) -> None:
    """Labels in one kernel, or in a few, if the logits of cells take more than a strip may."""
    (down, across), source = logits.taps, logits.source
    row = math.prod(source.shape) // source.shape[2] * logits.like.element_size()
    cells = max(1, strip_bytes(labels.device) // max(1, row))
    step = max(1, cells * len(down) // source.shape[2])
    for start in range(0, len(down), step):
        part = down.part(start, min(start + step, len(down)))
        first, last = part.span()
        axes = (t.axis(labels.device) for t in (part.moved(first, last), across))
        labels[:, start : start + step] = cells_to_labels(source.rows(first, last), *axes)


def _fill_rows(source: RowMap, down: Taps, across: Taps, labels: Tensor) -> None:
    """Labels of some rows: first where all cells of a pixel agree, then the borders.

    Args:
        source: logits of the cells, (1, K, h, w).
        down: taps of these rows among the rows of cells.
        across: taps of all columns.
        labels: (rows, W), to be filled.
    """
    first, last = down.span()
    down = down.moved(first, last)
    x = source.rows(first, last)
    x = x.to(compute_dtype(x.dtype))
    (y_cells, y_weights), (x_cells, x_weights) = (t.tensors(x) for t in (down, across))
    labels.copy_(_agreed(_agreed(x.max(1).indices[0].int(), 1, x_cells), 0, y_cells))
    cells = x[0].flatten(1).t().contiguous()  # (cells, K)
    for pixels in (labels < 0).nonzero().split(max(1, _BORDER_LOGITS // len(x[0]))):
        i, j = pixels.unbind(1)
        index = y_cells[i, :, None] * x.shape[3] + x_cells[j, None, :]
        weight = y_weights[i, :, None] * x_weights[j, None, :]
        values = F.embedding_bag(
            index.flatten(1), cells, per_sample_weights=weight.flatten(1), mode="sum"
        )
        labels[i, j] = values.max(1).indices


def _agreed(cells: Tensor, axis: int, index: Tensor) -> Tensor:
    """``cells`` at an index (size, S) along an axis, -1 where the S labels differ."""
    labels, *others = (cells.index_select(axis, i) for i in index.unbind(1))
    for other in others:
        labels = labels.where(labels == other, -1)
    return labels
