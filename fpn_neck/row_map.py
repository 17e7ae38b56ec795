"""Maps that exist a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_STRIP_BYTES = 4 << 20  # at a time, on a CPU: they stay in the cache
_DEVICE_STRIP_BYTES = 128 << 20  # elsewhere a strip should be worth its kernel launches


class RowMap:
    """A map (N, C, H, W) of which only the rows asked for are computed.

    Bilinear resizing is separable: a block of output rows needs as many input rows as it covers
    and one more, so a large resized map can be used strip by strip and never exist as a whole.

    Args:
        shape: (N, C, H, W).
        like: a tensor of the rows' dtype and device.
        rows: start, end -> rows start..end - 1, (N, C, end - start, W).
    """

    def __init__(
        self, shape: Sequence[int], like: Tensor, rows: Callable[[int, int], Tensor]
    ) -> None:
        self.shape, self.like, self.rows = tuple(shape), like, rows

    @classmethod
    def of(cls, x: Tensor) -> RowMap:
        """A map that exists."""
        return cls(x.shape, x, lambda start, end: x[:, :, start:end])

    def crop(self, top: int, left: int, height: int, width: int) -> RowMap:
        """The part that begins at (top, left)."""

        def rows(start: int, end: int) -> Tensor:
            return self.rows(top + start, top + end)[..., left : left + width]

        return RowMap((*self.shape[:2], height, width), self.like, rows)

    def resize(self, size: Sequence[int], align_corners: bool = False) -> RowMap:
        """`torch.nn.functional.interpolate`, bilinear, to size (H, W); equal up to rounding."""
        height, width = size
        if (height, width) == self.shape[2:]:
            return self
        options = {"mode": "bilinear", "align_corners": align_corners}
        above, below, weight = _neighbours(self.shape[2], height, align_corners)

        def rows(start: int, end: int) -> Tensor:
            first, last = int(above[start]), int(below[end - 1]) + 1
            x = self.rows(first, last)
            x = x.float() if x.element_size() < 4 else x
            if width != self.shape[3]:
                x = F.interpolate(x, size=(last - first, width), **options)
            # Each row is a mixture of two: a small matrix product.
            i, mixture = torch.arange(end - start), torch.zeros(end - start, last - first)
            mixture[i, above[start:end] - first] += 1 - weight[start:end]
            mixture[i, below[start:end] - first] += weight[start:end]
            with torch.autocast(x.device.type, enabled=False):
                return mixture.to(x) @ x

        return RowMap((*self.shape[:2], height, width), self.like, rows)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, as many at a time as a few MiB hold: where they are, and they."""
        n, c, height, width = self.shape
        budget = _STRIP_BYTES if self.like.device.type == "cpu" else _DEVICE_STRIP_BYTES
        step = max(1, budget // max(1, n * c * width * self.like.element_size()))
        for start in range(0, height, step):
            end = min(start + step, height)
            yield slice(start, end), self.rows(start, end)


def _neighbours(h: int, height: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For every output row: the input rows above and below it, and the weight of the one below.

    The coordinates are those of `torch.nn.functional.interpolate`.
    """
    rows = torch.arange(height, dtype=torch.float32)
    if align_corners:
        position = rows * ((h - 1) / max(height - 1, 1))
    else:
        position = ((rows + 0.5) * (h / height) - 0.5).clamp(min=0)
    above = position.long().clamp(max=h - 1)
    return above, (above + 1).clamp(max=h - 1), (position - above).clamp(0, 1)
