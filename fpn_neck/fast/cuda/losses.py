"""Sums over pixels that losses are functions of, and the gradient, from the logits of cells."""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.launch import Launch
from fpn_neck.fast.cuda.layout import (
    PIXEL_TILE,
    Tile,
    cell_tile,
    is_class_last,
    needs_int64,
    sum_tile,
)
from fpn_neck.utils.sizes import ceil_div

_PIXELS_PER_SUM = 4096  # in float32, each thread up to some dozens; what remains is float64


def loss_sums(
    logits: Tensor,
    target: Tensor,
    rows: Axis,
    columns: Axis,
    *,
    ignore_index: int,
    dense: bool,
) -> tuple[Tensor, Tensor]:
    """`fpn_neck.strips.pixel_loss.ClassSums` of all pixels. The same bits in every run.

    Args:
        logits: (N, K, h, w), K >= 2, float32, float16 or bfloat16, of any strides. In NHWC they
            are copied. For one logit x give the two of 0 and x.
        target: (N, H, W), int64. A label outside 0..K - 1 counts as ignored.
        rows: H outputs of h inputs.
        columns: W outputs of w inputs.
        ignore_index: label to ignore.
        dense: whether ``all_p`` and ``all_log_p`` are wanted; they are 0 otherwise.

    Returns:
        sums: (6, K), float64; the rows are pixels, log_p, p, correct, all_p, all_log_p.
        lse: (N, H, W), float32, log of the sum of exp over the classes; infinity where ignored.

    Raises:
        ValueError: an axis has more than two taps.
    """
    _check_axes(rows, columns)
    logits = _class_first(logits)
    lse = logits.new_empty(target.shape, dtype=torch.float32)
    log_p, codes = torch.empty_like(lse), torch.empty_like(lse, dtype=torch.int32)
    shape = sum_chunks(logits, target, dense), 6, logits.shape[1]
    sums = logits.new_zeros(shape, dtype=torch.float32)
    for launch in sum_launches(
        logits, target.contiguous(), rows, columns, ignore_index, dense, lse, log_p, codes, sums
    ):
        launch.run()
    return sums.sum(0, dtype=torch.float64), lse


def sum_chunks(logits: Tensor, target: Tensor, dense: bool) -> int:
    """Partial sums of `sum_launches`."""
    tile = sum_tile(logits.shape[1], dense)
    tiles = len(target) * tile.covering(*target.shape[1:])
    return ceil_div(tiles, _tiles_per_sum(tile))


def sum_launches(
    logits: Tensor,
    target: Tensor,
    rows: Axis,
    columns: Axis,
    ignore_index: int,
    dense: bool,
    lse: Tensor,
    log_p: Tensor,
    codes: Tensor,
    sums: Tensor,
) -> tuple[Launch, Launch]:
    """What writes ``lse``, ``log_p`` of the labels and ``codes`` (N, H, W), then ``sums``.

    ``sums`` is zero, (`sum_chunks`, 6, K).
    """
    from fpn_neck.fast.cuda.loss_kernels import add_pixels, write_pixels

    images, classes = logits.shape[:2]
    height, width = target.shape[1:]
    sizes = classes, height, width, *logits.stride()
    axes = rows.indices, rows.weights, columns.indices, columns.weights
    modes = _modes(logits, target, rows, columns)
    tile, block = PIXEL_TILE, sum_tile(classes, dense)
    pixels = Launch(
        write_pixels,
        (tile.covering(height, width), images),
        (logits, target, *axes, lse, log_p, codes, *sizes, ignore_index),
        {"ROWS": tile.rows, "COLUMNS": tile.columns, **modes},
    )
    by_class = Launch(
        add_pixels,
        (len(sums), ceil_div(classes, block.classes)),
        (logits, *axes, lse, log_p, codes, sums, images, *sizes),
        {
            "B": block.classes, "ROWS": block.rows, "COLUMNS": block.columns,
            "TILES": _tiles_per_sum(block), "DENSE": dense, **modes,
        },
    )  # fmt: skip
    return pixels, by_class


def _tiles_per_sum(tile: Tile) -> int:
    return max(1, _PIXELS_PER_SUM // (tile.rows * tile.columns))


def loss_grad(
    logits: Tensor,
    target: Tensor,
    rows: Axis,
    columns: Axis,
    lse: Tensor,
    derivatives: Tensor,
    *,
    dense: bool,
) -> Tensor:
    """Gradient of the logits, given a scalar's derivatives by the sums. The same in every run.

    Args:
        logits, target, rows, columns, lse: as in `loss_sums`, and its result.
        derivatives: (6, K), by the sums. The rows pixels and correct have no effect.
        dense: whether derivatives by ``p``, ``all_p`` or ``all_log_p`` are not 0.

    Returns:
        (N, K, h, w), in the logits' dtype and, if they are dense, layout.

    Raises:
        ValueError: an axis has more than two taps.
    """
    _check_axes(rows, columns)
    derivatives = derivatives.to(logits.device, torch.float32).contiguous()
    a = torch.empty_like(lse)
    b = torch.empty_like(lse) if dense else a
    grad = torch.empty_like(logits)
    for launch in gradient_launches(
        _class_first(logits),
        target.contiguous(),
        rows,
        columns,
        lse,
        derivatives,
        dense,
        a,
        b,
        grad,
    ):
        launch.run()
    return grad


def gradient_launches(
    logits: Tensor,
    target: Tensor,
    rows: Axis,
    columns: Axis,
    lse: Tensor,
    derivatives: Tensor,
    dense: bool,
    a: Tensor,
    b: Tensor,
    grad: Tensor,
) -> tuple[Launch, Launch]:
    """What writes ``a`` and ``b`` (N, H, W), then ``grad``; see the module of the kernels."""
    from fpn_neck.fast.cuda.gradient_kernels import write_gradient, write_pixel_derivatives

    images, classes, h, w = logits.shape
    height, width = target.shape[1:]
    modes = _modes(logits, target, rows, columns) | {"DENSE": dense}
    axes = rows.indices, rows.weights, columns.indices, columns.weights
    tile, block = PIXEL_TILE, cell_tile(classes)
    pixels = Launch(
        write_pixel_derivatives,
        (tile.covering(height, width), images),
        (
            logits, target, *axes, lse, derivatives, a, b,
            classes, height, width, *logits.stride(),
        ),
        {"ROWS": tile.rows, "COLUMNS": tile.columns, **modes},
    )  # fmt: skip
    cells = Launch(
        write_gradient,
        (ceil_div(classes, block.classes) * block.covering(h, w), images),
        (
            logits, target, *rows, *columns, lse, derivatives, a, b, grad,
            classes, w, height, width, *logits.stride(), *grad.stride(),
        ),
        {"B": block.classes, "CELLS": block.columns, **modes},
    )  # fmt: skip
    return pixels, cells


def _class_first(logits: Tensor) -> Tensor:
    """The logits of cells, copied from NHWC to NCHW: threads take neighbouring pixels.

    The copy is small, and what is read of a pixel serves several classes of a thread. With threads
    on neighbouring classes the gradient takes twice the instructions.
    """
    return logits.contiguous() if is_class_last(logits) else logits


def _modes(logits: Tensor, target: Tensor, rows: Axis, columns: Axis) -> dict[str, int | bool]:
    """What all kernels are compiled for."""
    return {
        "R": rows.indices.shape[1],
        "C": columns.indices.shape[1],
        "WIDE": needs_int64(logits, target[0].numel()),
    }


def _check_axes(*axes: Axis) -> None:
    for axis in axes:
        if axis.indices.shape[1] > 2:
            raise ValueError(
                f"{axis.indices.shape[1]} taps: losses are for one bilinear resizing, of 1 or 2"
            )
