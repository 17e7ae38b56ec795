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
        position = _positions(self.shape[2], height, align_corners)

        def widen(x: Tensor) -> Tensor:
            if width == x.shape[3]:
                return x
            size = x.shape[2], width
            return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)

        def rows(start: int, end: int) -> Tensor:
            # Each row is a mixture of two: a small matrix product.
            above = [int(position(i)) for i in range(start, end)]
            first, last = above[0], min(above[-1] + 2, self.shape[2])
            mixture = torch.zeros(end - start, last - first)
            for i, upper in enumerate(above):
                weight = position(start + i) - upper
                mixture[i, upper - first] = 1 - weight
                if weight:
                    mixture[i, upper + 1 - first] = weight
            x = self.rows(first, last)
            x = x.float() if x.element_size() < 4 else x
            with torch.autocast(x.device.type, enabled=False):
                mixture = mixture.to(x)
                if end - start > last - first:  # first the step that leaves less to the other
                    return mixture @ widen(x)
                return widen(mixture @ x)

        return RowMap((*self.shape[:2], height, width), self.like, rows)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, as many at a time as a few MiB hold: where they are, and they."""
        n, c, height, width = self.shape
        budget = _STRIP_BYTES if self.like.device.type == "cpu" else _DEVICE_STRIP_BYTES
        step = max(1, budget // max(1, n * c * width * self.like.element_size()))
        for start in range(0, height, step):
            end = min(start + step, height)
            yield slice(start, end), self.rows(start, end)


def _positions(h: int, height: int, align_corners: bool) -> Callable[[int], float]:
    """Output row -> where it lies among the ``h`` input rows, 0..h - 1.

    The coordinates are those of `torch.nn.functional.interpolate`.
    """
    if align_corners:
        scale, shift = (h - 1) / max(height - 1, 1), 0.0
    else:
        scale, shift = h / height, 0.5 * h / height - 0.5
    return lambda row: min(max(row * scale + shift, 0.0), h - 1.0)
