"""Bilinear resizing along one axis: which inputs every output is a mixture of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """Output ``i`` is the sum over ``j`` of ``weight[i][j] * input[index[i][j]]``.

    Numbers of Python, not tensors: the compiler needs to know them.

    Attributes:
        index: inputs of every output, ascending, S of each; one may be named twice.
        weight: of these inputs; not negative, with a sum of 1.
    """

    index: list[list[int]]
    weight: list[list[float]]

    @classmethod
    def same(cls, size: int) -> Taps:
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
        index = [[int(p), int(p) + (w > 0)] for p, w in zip(positions, weights, strict=True)]
        return cls(index, [[1 - w, w] for w in weights])

    def after(self, inner: Taps) -> Taps:
        """Of the inputs of ``inner``, whose outputs are the inputs of this."""
        index = [[i for j in taps for i in inner.index[j]] for taps in self.index]
        weight = [
            [w * v for j, w in zip(*taps, strict=True) for v in inner.weight[j]]
            for taps in zip(*self, strict=True)
        ]
        return Taps(index, weight)

    def part(self, start: int, end: int) -> Taps:
        """Outputs start..end - 1 alone."""
        return Taps(self.index[start:end], self.weight[start:end])

    def span(self) -> tuple[int, int]:
        """The inputs in use begin at the first number and end before the second."""
        return self.index[0][0], self.index[-1][-1] + 1

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Index, int64, and weight, float64, (outputs, S)."""
        weight = torch.tensor(self.weight, dtype=torch.float64, device=device)
        return torch.tensor(self.index, device=device), weight

    def matrix(self, first: int, last: int, like: Tensor) -> Tensor:
        """(outputs, last - first): how each is mixed of inputs first..last - 1."""
        rows = [[0.0] * (last - first) for _ in self.index]
        for row, index, weight in zip(rows, *self, strict=True):
            for i, w in zip(index, weight, strict=True):
                row[i - first] += w
        return torch.tensor(rows, dtype=torch.float64, device="cpu").to(like)
