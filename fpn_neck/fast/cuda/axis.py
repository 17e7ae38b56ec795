"""Bilinear resizing along one axis, as tensors that a kernel reads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Axis(NamedTuple):
    """Output ``i`` is the sum over ``j`` of ``weights[i, j] * input[indices[i, j]]``.

    Attributes:
        indices: int32 (outputs, S), S = 1, 2 or 4 taps, ascending along the outputs.
        weights: float32 (outputs, S), not negative, with a sum of 1. An input that stands twice
            has both weights.
        users: int32 (inputs, 2), the first output that has the input among its taps, and one past
            the last; both equal if there is none. Only gradients read it.
    """

    indices: Tensor
    weights: Tensor
    users: Tensor
