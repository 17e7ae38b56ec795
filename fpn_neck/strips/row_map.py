"""Maps that exist only a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.fast.memory_format import compute_dtype
from fpn_neck.strips.banded_products import mix_columns, mix_rows, unmix_columns, unmix_rows
from fpn_neck.strips.bilinear_taps import Taps

_STRIP_BYTES = 4 << 20  # on a CPU, where a strip should stay in the cache
_DEVICE_STRIP_BYTES = 256 << 20  # elsewhere, where a strip should keep the device busy


def strip_bytes(device: torch.device) -> int:
    """Bytes of a strip on this device."""
    return _STRIP_BYTES if device.type == "cpu" else _DEVICE_STRIP_BYTES


class Resize:
    """Bilinear resizing of rows, as `torch.nn.functional.interpolate`, and its transpose.

    Args:
        size: (h, w) of the map.
        target: (H, W) of the resized map.
        align_corners: as in `torch.nn.functional.interpolate`.

    Attributes:
        down, across: taps of the resized rows and columns.
    """

    def __init__(self, size: Sequence[int], target: Sequence[int], align_corners: bool) -> None:
        self.align_corners = align_corners
        self.down = Taps.linear(size[0], target[0], align_corners)
        self.across = Taps.linear(size[1], target[1], align_corners)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The rows of the map that make up the rows start..end - 1 of the resized map."""
        return self.down.part(start, end).span()

    def rows(self, x: Tensor, start: int, end: int) -> Tensor:
        """Rows start..end - 1 of the resized map.

        Args:
            x: the rows of the map at ``span(start, end)``, (N, C, rows, w).
        """
        down = self._down(start, end)
        x = x.to(compute_dtype(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type != "cpu":
                return self._by_gathering(x, down)
            if len(down) > down.inputs:  # columns are resized while there are fewer rows
                return mix_rows(mix_columns(x, self.across), down)
            return mix_columns(mix_rows(x, down), self.across)

    def transposed(self, grad: Tensor, start: int, end: int) -> Tensor:
        """Gradient of `rows` with respect to ``x``, given that of its result."""
        down = self._down(start, end)
        with torch.autocast(grad.device.type, enabled=False):
            if grad.device.type != "cpu":
                return down.matrix(grad).t() @ self._narrow(grad)
            if len(down) > down.inputs:
                return unmix_columns(unmix_rows(grad, down), self.across)
            return unmix_rows(unmix_columns(grad, self.across), down)

    def _down(self, start: int, end: int) -> Taps:
        part = self.down.part(start, end)
        return part.moved(*part.span())

    def _by_gathering(self, x: Tensor, down: Taps) -> Tensor:
        """On a GPU, where memory is fast: no matrix product."""
        indices, weights = down.tensors(x)
        above, below = (x.index_select(2, i) for i in indices.unbind(1))
        x = above.lerp(below, weights[:, 1:])
        size = len(down), len(self.across)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)

    def _narrow(self, grad: Tensor) -> Tensor:
        """Gradient of resized columns with respect to the columns, on a GPU."""
        if torch.are_deterministic_algorithms_enabled():  # torch's kernel adds in any order
            return grad @ self.across.matrix(grad)
        columns = *grad.shape[:3], self.across.inputs
        return torch.ops.aten.upsample_bilinear2d_backward(
            grad, grad.shape[2:], columns, self.align_corners, None, None
        )


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

    def mirrored(self) -> RowMap:
        """The columns from right to left."""
        rows = self.rows
        return RowMap(self.shape, self.like, lambda *a: rows(*a).flip(-1))

    def binary(self) -> RowMap:
        """Two logits for one: 0 and itself."""
        rows = self.rows

        def both(start: int, end: int) -> Tensor:
            x = rows(start, end)
            return torch.cat((torch.zeros_like(x), x), 1)

        pair = RowMap((self.shape[0], 2, *self.shape[2:]), self.like, both)
        if self.source is not self:
            pair.source, pair.taps = self.source.binary(), self.taps
        return pair

    def _derive(self, down: Taps, across: Taps, rows: Callable[[int, int], Tensor]) -> RowMap:
        """Another map of the same source, given its taps among the rows and columns of this one."""
        derived = RowMap((*self.shape[:2], len(down), len(across)), self.like, rows)
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
        if tuple(size) == self.shape[2:]:
            return self
        resize = Resize(self.shape[2:], size, align_corners)

        def rows(start: int, end: int) -> Tensor:
            return resize.rows(self.rows(*resize.span(start, end)), start, end)

        return self._derive(resize.down, resize.across, rows)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, a few MiB at a time: their position, and the rows."""
        n, c, height, width = self.shape
        row = n * c * width * max(4, self.like.element_size())  # resized in float32
        step = max(1, strip_bytes(self.like.device) // max(1, row))
        for start in range(0, height, step):
            end = min(start + step, height)
            yield slice(start, end), self.rows(start, end)
