"""Sums over pixels that losses are functions of, and the gradient, from the logits of cells."""

from __future__ import annotations

from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis

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
    """
    raise NotImplementedError


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
    """
    raise NotImplementedError
