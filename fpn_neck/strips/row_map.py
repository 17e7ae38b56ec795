"""Maps that exist a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.strips.bilinear_taps import Taps

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

    Attributes:
        source: the map that this one is a crop or resizing of, or itself.
        taps: of its rows and columns among those of the source.
    """

    def __init__(
        self, shape: Sequence[int], like: Tensor, rows: Callable[[int, int], Tensor]
    ) -> None:
        self.shape, self.like, self.rows = tuple(shape), like, rows
        self.source, self.taps = self, (Taps.same(shape[2]), Taps.same(shape[3]))

    @classmethod
    def of(cls, x: Tensor) -> RowMap:
        """A map that exists."""
        return cls(x.shape, x, lambda start, end: x[:, :, start:end])

    def finite(self) -> RowMap:
        """Infinite values as the largest numbers: a mixture with none of them would be NaN."""
        info, rows = torch.finfo(self.like.dtype), self.rows
        return RowMap(self.shape, self.like, lambda *a: rows(*a).clamp(info.min, info.max))

    def _made_of(self, down: Taps, across: Taps, rows: Callable[[int, int], Tensor]) -> RowMap:
        """Another map of the same source, with taps among this one's rows and columns."""
        size = len(down.index), len(across.index)
        made = RowMap((*self.shape[:2], *size), self.like, rows)
        made.source, made.taps = self.source, (down.after(self.taps[0]), across.after(self.taps[1]))
        return made

    def crop(self, top: int, left: int, height: int, width: int) -> RowMap:
        """The part that begins at (top, left)."""

        def rows(start: int, end: int) -> Tensor:
            return self.rows(top + start, top + end)[..., left : left + width]

        down = Taps.same(self.shape[2]).part(top, top + height)
        across = Taps.same(self.shape[3]).part(left, left + width)
        return self._made_of(down, across, rows)

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
            # Each row is a mixture of two: a small matrix product.
            part = down.part(start, end)
            first, last = part.span()
            x = self.rows(first, last)
            x = x.float() if x.element_size() < 4 else x
            with torch.autocast(x.device.type, enabled=False):
                mixture = part.matrix(first, last, x)
                if end - start > last - first:  # first the step that leaves less to the other
                    return mixture @ widen(x)
                return widen(mixture @ x)

        return self._made_of(down, across, rows)

    def strips(self, start: int = 0, end: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, as many at a time as a few MiB hold: where they are, and they."""
        n, c, height, width = self.shape
        end = height if end is None else end
        budget = _STRIP_BYTES if self.like.device.type == "cpu" else _DEVICE_STRIP_BYTES
        step = max(1, budget // max(1, n * c * width * self.like.element_size()))
        for first in range(start, end, step):
            last = min(first + step, end)
            yield slice(first, last), self.rows(first, last)
