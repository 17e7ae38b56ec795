"""Bilinear resizing along one axis: which inputs make up every output, with which weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """Output ``i`` is the sum over ``j`` of ``weights[i][j] * input[indices[i][j]]``.

    They are Python's numbers, not tensors: torch.compile needs to know them.

    Attributes:
        indices: inputs of every output, ascending, S of each; one may stand twice.
        weights: of these inputs; not negative, with a sum of 1.
    """

    indices: list[list[int]]
    weights: list[list[float]]

    @classmethod
    def identity(cls, size: int) -> Taps:
        """Every output is its input."""
        return cls([[i] for i in range(size)], [[1.0]] * size)

    @classmethod
    def linear(cls, size: int, target: int, align_corners: bool) -> Taps:
        """``size`` inputs -> ``target`` outputs, as in `torch.nn.functional.interpolate`."""
        if align_corners:
            scale, shift = (size - 1) / max(target - 1, 1), 0.0
        else:
            scale, shift = size / target, 0.5 * size / target - 0.5
        positions = [min(max(i * scale + shift, 0.0), size - 1.0) for i in range(target)]
        weights = [p - int(p) for p in positions]
        indices = [[int(p), int(p) + (w > 0)] for p, w in zip(positions, weights, strict=True)]
        return cls(indices, [[1 - w, w] for w in weights])

    def after(self, inner: Taps) -> Taps:
        """Taps among the inputs of ``inner``, whose outputs are the inputs of these."""
        indices = [[i for j in taps for i in inner.indices[j]] for taps in self.indices]
        weights = [
            [w * v for j, w in zip(*taps, strict=True) for v in inner.weights[j]]
            for taps in zip(*self, strict=True)
        ]
        return Taps(indices, weights)

    def part(self, start: int, end: int) -> Taps:
        """Only outputs start..end - 1."""
        return Taps(self.indices[start:end], self.weights[start:end])

    def span(self) -> tuple[int, int]:
        """The first input in use and the one after the last."""
        return self.indices[0][0], self.indices[-1][-1] + 1

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Indices, int64, and weights, float64, each (outputs, S)."""
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        return torch.tensor(self.indices, device=device), weights

    def matrix(self, first: int, last: int, like: Tensor) -> Tensor:
        """(outputs, last - first), weights of the inputs first..last - 1 in every output."""
        rows = [[0.0] * (last - first) for _ in self.indices]
        for row, indices, weights in zip(rows, *self, strict=True):
            for i, w in zip(indices, weights, strict=True):
                row[i - first] += w
        return torch.tensor(rows, dtype=torch.float64, device="cpu").to(like)
