"""How a kernel walks over a map: the order of its memory, and the width of its offsets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fpn_neck.utils.sizes import ceil_div

_INT32 = 1 << 31


class Tile(NamedTuple):
    """What a program holds at a time: logits of B classes at rows x columns places."""

    classes: int
    rows: int
    columns: int

    def covering(self, height: int, width: int) -> int:
        """Tiles that cover a map."""
        return ceil_div(height, self.rows) * ceil_div(width, self.columns)


PIXEL_TILE = Tile(1, 16, 32)  # four pixels per thread, whose offsets stay in registers


def pixel_tile(logits: Tensor, taps: int) -> Tile:
    """For labels of pixels with ``taps`` along an axis; more than two need more registers."""
    if is_class_last(logits):
        block = min(32, power_of_two(logits.shape[1]))
        return Tile(block, 2, (128 if taps > 2 else 256) // block)
    return PIXEL_TILE._replace(rows=8) if taps > 2 else PIXEL_TILE


def sum_tile(classes: int, dense: bool) -> Tile:
    """For sums by class over many pixels; ``dense`` ones read logits and need more registers."""
    return Tile(min(8 if dense else 16, power_of_two(classes)), 4, 32)


def cell_tile(classes: int) -> Tile:
    """For gradients of cells: what is read for a pixel serves eight classes of a thread."""
    return Tile(min(32, power_of_two(classes)), 1, 32)


def is_class_last(logits: Tensor) -> bool:
    """Whether the classes of a cell are neighbours in memory (NHWC)."""
    return logits.stride(1) == 1 and logits.shape[1] > 1 and logits.shape[2:] != (1, 1)


def needs_int64(logits: Tensor, pixels: int) -> bool:
    """Whether offsets inside an image of ``logits``, or among its pixels, pass int32.

    Args:
        logits: (N, K, h, w).
        pixels: of an image at full size.
    """
    last = sum(
        (size - 1) * abs(stride)
        for size, stride in zip(logits.shape[1:], logits.stride()[1:], strict=True)
    )
    return max(last + 1, pixels) >= _INT32


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less, without an import in every launch."""
    return 1 << max(0, number - 1).bit_length()
