"""Maps that exist only a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.strips.bilinear_taps import Taps

_STRIP_BYTES = 4 << 20  # on a CPU, where a strip should stay in the cache
_DEVICE_STRIP_BYTES = 128 << 20  # elsewhere, where kernel launches should not dominate


class RowMap:
    """A map (N, C, H, W) that computes only the rows that are asked for.

    Bilinear resizing is separable: a block of output rows needs the input rows that it covers and
    one more. So a large resized map can be used strip by strip and never exists as a whole.

    Args:
        shape: (N, C, H, W).
        like: a tensor of the rows' dtype and device.
        rows: start, end -> rows start..end - 1, (N, C, end - start, W).

    Attributes:
        source: the map that this one is a crop or a resizing of, or itself.
        taps: of its rows and of its columns, among those of the source.
    """

    def __init__(
        self, shape: Sequence[int], like: Tensor, rows: Callable[[int, int], Tensor]
    ) -> None:
        self.shape, self.like, self.rows = tuple(shape), like, rows
        self.source = self
        self.taps = Taps.identity(shape[2]), Taps.identity(shape[3])

    @classmethod
    def from_tensor(cls, x: Tensor) -> RowMap:
        """An existing map."""
        return cls(x.shape, x, lambda start, end: x[:, :, start:end])

    def finite(self) -> RowMap:
        """The map with the largest finite number instead of infinity: 0 * infinity is NaN."""
        info, rows = torch.finfo(self.like.dtype), self.rows
        return RowMap(self.shape, self.like, lambda *a: rows(*a).clamp(info.min, info.max))

    def binary(self, threshold: float = 0.5) -> RowMap:
        """Two logits for one: the larger is the second's where the sigmoid is above the threshold.

        Args:
            threshold: a probability above 0 and below 1.
        """
        other, rows = math.log(threshold / (1 - threshold)), self.rows

        def both(start: int, end: int) -> Tensor:
            x = rows(start, end)
            return torch.cat((torch.full_like(x, other), x), 1)

        pair = RowMap((self.shape[0], 2, *self.shape[2:]), self.like, both)
        if self.source is not self:
            pair.source, pair.taps = self.source.binary(threshold), self.taps
        return pair

    def _derive(self, down: Taps, across: Taps, rows: Callable[[int, int], Tensor]) -> RowMap:
        """Another map of the same source, given its taps among the rows and columns of this one."""
        size = len(down.indices), len(across.indices)
        derived = RowMap((*self.shape[:2], *size), self.like, rows)
        derived.source = self.source
        derived.taps = down.after(self.taps[0]), across.after(self.taps[1])
        return derived

    def crop(self, top: int, left: int, height: int, width: int) -> RowMap:
        """The part that begins at (top, left)."""

        def rows(start: int, end: int) -> Tensor:
            return self.rows(top + start, top + end)[..., left : left + width]

        down = Taps.identity(self.shape[2]).part(top, top + height)
        across = Taps.identity(self.shape[3]).part(left, left + width)
        return self._derive(down, across, rows)

    def resize(self, size: Sequence[int], align_corners: bool = False) -> RowMap:
        """`torch.nn.functional.interpolate`, bilinear, to size (H, W); equal up to rounding."""
        (h, w), (height, width) = self.shape[2:], size
        if (height, width) == (h, w):
            return self
        down, across = Taps.linear(h, height, align_corners), Taps.linear(w, width, align_corners)

        def widen(x: Tensor) -> Tensor:
            if width == w:
                return x
            size = x.shape[2], width
            return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)

        def rows(start: int, end: int) -> Tensor:
            # Each row is a weighted sum of two: a small matrix product.
            part = down.part(start, end)
            first, last = part.span()
            x = self.rows(first, last)
            x = x.float() if x.element_size() < 4 else x
            with torch.autocast(x.device.type, enabled=False):
                weights = part.matrix(first, last, x)
                if end - start > last - first:  # columns are resized while there are fewer rows
                    return weights @ widen(x)
                return widen(weights @ x)

        return self._derive(down, across, rows)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, a few MiB at a time: their position, and the rows."""
        n, c, height, width = self.shape
        budget = _STRIP_BYTES if self.like.device.type == "cpu" else _DEVICE_STRIP_BYTES
        step = max(1, budget // max(1, n * c * width * self.like.element_size()))
        for start in range(0, height, step):
            end = min(start + step, height)
            yield slice(start, end), self.rows(start, end)
