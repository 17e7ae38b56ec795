"""Bilinear resizing along one axis, as tensors that a kernel reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def sum_equal_taps(indices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same taps without inputs that stand twice, so that a kernel reads each once.

    Two resizings after another have four taps of mostly two or three inputs.

    Args:
        indices: (outputs, S), an integer type.
        weights: (outputs, S), not negative.

    Returns:
        Both (outputs, S') with S' <= S, in their dtypes. Taps of weight 0 stand at the input with
        the largest weight: an infinite input without weight must not be read.
    """
    first = indices.amin(1, keepdim=True)
    places = (indices - first).long()
    span = int(places.max()) + 1
    if span >= indices.shape[1]:
        return indices, weights
    sums = weights.new_zeros(len(weights), span).scatter_add_(1, places, weights)
    offsets = torch.arange(span, device=indices.device)
    offsets = offsets.where(sums > 0, sums.argmax(1, keepdim=True))
    return first + offsets.to(indices), sums
