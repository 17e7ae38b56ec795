"""Sums over pixels that losses are functions of, and the gradient, from the logits of cells."""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.layout import (
    cell_tile,
    is_class_last,
    needs_int64,
    pixel_tile,
    sum_tile,
)

_PIXELS_PER_SUM = 4096  # in float32, each thread up to some dozens; what remains is float64

# Rows of the sums (6, K). Each is a sum over the pixels that are not ignored; the first four over
# the pixels whose label is that class.
COUNT = 0  # 1
LOG_P_TARGET = 1  # log p of the label
P_TARGET = 2  # p of the label
CORRECT = 3  # 1 where the label has the largest logit (the first of equals)
P = 4  # p of that class
LOG_P = 5  # log p of that class


def loss_sums(
    logits: Tensor,
    target: Tensor,
    rows: Axis,
    columns: Axis,
    *,
    ignore_index: int,
    dense: bool,
) -> tuple[Tensor, Tensor]:
    """Sums over pixels, by class. The same bits in every run.

    Args:
        logits: (N, K, h, w), K >= 2, float32, float16 or bfloat16, of any strides; fast in NCHW
            and NHWC. For one logit x give the two of 0 and x.
        target: (N, H, W), int64. A label outside 0..K - 1 counts as ignored.
        rows: H outputs of h inputs.
        columns: W outputs of w inputs.
        ignore_index: label to ignore.
        dense: whether the rows ``P`` and ``LOG_P`` are wanted; they are 0 otherwise.

    Returns:
        sums: (6, K), float64; rows ``COUNT`` to ``LOG_P``.
        lse: (N, H, W), float32, log of the sum of exp over the classes; infinity where ignored.

    Raises:
        ValueError: an axis has more than two taps.
    """
    from fpn_neck.fast.cuda.loss_kernels import add_pixels, write_pixels

    _check_axes(rows, columns)
    images, classes = logits.shape[:2]
    height, width = target.shape[1:]
    sizes = classes, height, width, *logits.stride()
    axes = rows.indices, rows.weights, columns.indices, columns.weights
    modes = _modes(logits, target, rows, columns)
    target = target.contiguous()
    lse, log_p = logits.new_empty((2, *target.shape), dtype=torch.float32)
    codes = torch.empty_like(target, dtype=torch.int32)
    with torch.cuda.device_of(logits):
        tile = pixel_tile(logits)
        write_pixels[tile.count(height, width), images](
            logits, target, *axes, lse, log_p, codes, *sizes, ignore_index,
            B=tile.classes, ROWS=tile.rows, COLUMNS=tile.columns, **modes,
        )  # fmt: skip
        tile = sum_tile(logits, dense)
        tiles = max(1, _PIXELS_PER_SUM // (tile.rows * tile.columns))
        chunks = -(-images * tile.count(height, width) // tiles)
        sums = logits.new_zeros((chunks, 6, classes), dtype=torch.float32)
        add_pixels[chunks, -(-classes // tile.classes)](
            logits, *axes, lse, log_p, codes, sums, images, *sizes,
            B=tile.classes, ROWS=tile.rows, COLUMNS=tile.columns, TILES=tiles,
            DENSE=dense, **modes,
        )  # fmt: skip
    return sums.sum(0, dtype=torch.float64), lse


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
        derivatives: (6, K), by the sums. The rows ``COUNT`` and ``CORRECT`` have no effect.
        dense: whether derivatives by ``P_TARGET``, ``P`` or ``LOG_P`` are not 0.

    Returns:
        (N, K, h, w), in the logits' dtype and, if they are dense, layout.

    Raises:
        ValueError: an axis has more than two taps.
    """
    from fpn_neck.fast.cuda.gradient_kernels import write_gradient, write_pixel_derivatives

    _check_axes(rows, columns)
    images, classes, h, w = logits.shape
    height, width = target.shape[1:]
    modes = _modes(logits, target, rows, columns) | {"DENSE": dense}
    target = target.contiguous()
    derivatives = derivatives.float().contiguous()
    a = torch.empty_like(lse)
    b = torch.empty_like(lse) if dense else a
    grad = torch.empty_like(logits)
    with torch.cuda.device_of(logits):
        tile = pixel_tile(logits)
        write_pixel_derivatives[tile.count(height, width), images](
            logits, target, rows.indices, rows.weights, columns.indices, columns.weights,
            lse, derivatives, a, b, classes, height, width, *logits.stride(),
            B=tile.classes, ROWS=tile.rows, COLUMNS=tile.columns, **modes,
        )  # fmt: skip
        tile = cell_tile(logits)
        write_gradient[-(-classes // tile.classes) * tile.count(h, w), images](
            logits, target, *rows, *columns, lse, derivatives, a, b, grad,
            classes, w, height, width, *logits.stride(), *grad.stride(),
            B=tile.classes, CELLS=tile.columns, **modes,
        )  # fmt: skip
    return grad


def _modes(logits: Tensor, target: Tensor, rows: Axis, columns: Axis) -> dict[str, int | bool]:
    """What all kernels are compiled for."""
    return {
        "R": rows.indices.shape[1],
        "C": columns.indices.shape[1],
        "CLASS_LAST": is_class_last(logits),
        "WIDE": needs_int64(logits, target[0].numel()),
    }


def _check_axes(*axes: Axis) -> None:
    for axis in axes:
        if axis.indices.shape[1] > 2:
            raise ValueError(
                f"{axis.indices.shape[1]} taps: losses are for one bilinear resizing, of 1 or 2"
            )
