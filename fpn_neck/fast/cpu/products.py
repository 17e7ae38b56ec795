"""The 36 products of Winograd's convolution, by the library that is faster on this processor.

MKL's batched product takes 36 matrices of (tiles, channels). oneDNN's convolution of 1x1 in 36
groups takes one matrix of (tiles, 36 x channels), with a weight that it packed before. On AMD's
processors oneDNN's is faster, the more so as MKL leaves out AVX-512 there; see
`fpn_neck.fast.cpu.processor` and docs/performance.md.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from fpn_neck.fast.cpu import processor

TILE, WINDOW = 4, 6
ALIGNMENT = 16  # numbers; a buffer that begins at a multiple of it can be viewed in other dtypes
LEAST_TILES = 700  # for each thread, from where on a weight that is used once is worth packing

Grid = tuple[int, int]  # rows R and columns T of tiles in a block


class Matrices(NamedTuple):
    """Winograd's transforms, of numbers in rows: each the Kronecker square of one dimension's."""

    window: Tensor  # (36, 36), B^T x B^T
    kernel: Tensor  # (36, 9), G x G
    tile: Tensor  # (36, 16), A x A
    ones: Tensor  # (36,), what `tile` turns into 16 ones


class Block(Protocol):
    """Buffers for a block of tiles.

    Attributes:
        channels: C.
        windows: (6, 6, R, T, C), to be filled.
    """

    channels: int
    windows: Tensor

    def tiles(self) -> Tensor:
        """The convolution of the windows with bias, (R, T, O, 4, 4), until the next call."""
        ...


class Products(Protocol):
    """A transformed weight."""

    dtype: torch.dtype

    def block(
        self, grid: Grid, matrices: Matrices, bias: Tensor | None, channels_last: bool
    ) -> Block:
        """Buffers; ``channels_last``: whether O is dense in the tiles, or the 4 x 4 numbers are."""
        ...


class BatchedProducts:
    """By torch's batched matrix product (MKL's where torch has it), for every dtype.

    Args:
        weight: (36, O, C).
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.dtype = weight.mT, weight.dtype

    def block(
        self, grid: Grid, matrices: Matrices, bias: Tensor | None, channels_last: bool
    ) -> Block:
        return _BatchedBlock(self.weight, grid, matrices, bias, channels_last)


class _BatchedBlock:
    """The 36 numbers come first. Two buffers serve all steps."""

    def __init__(
        self,
        weight: Tensor,
        grid: Grid,
        matrices: Matrices,
        bias: Tensor | None,
        channels_last: bool,
    ) -> None:
        (c, o), tiles = weight.shape[1:], grid[0] * grid[1]
        self.channels, self.weight, self.grid = c, weight, grid
        self.channels_last, self.matrix = channels_last, matrices.window
        size = -(-tiles * (o + WINDOW**2 * max(c, o)) // ALIGNMENT) * ALIGNMENT
        buffer, other = weight.new_empty(2, size)
        # The bias is one more product, the same for every tile.
        buffer[: tiles * o].view(tiles, o).copy_(weight.new_zeros(()) if bias is None else bias)
        self.to_tiles = torch.cat((torch.ones_like(matrices.tile[:1]), matrices.tile))
        self.gathered = buffer[tiles * o :][: WINDOW**2 * tiles * c].view(WINDOW**2, -1)
        self.windows = self.gathered.view(WINDOW, WINDOW, *grid, c)
        self.transformed = other[: self.gathered.numel()].view(WINDOW**2, -1)
        self.products = buffer[tiles * o :][: WINDOW**2 * tiles * o].view(WINDOW**2, tiles, o)
        self.sums = buffer[: (1 + WINDOW**2) * tiles * o].view(1 + WINDOW**2, -1)
        self.result = other[: TILE**2 * tiles * o]

    def tiles(self) -> Tensor:
        torch.mm(self.matrix, self.gathered, out=self.transformed)
        windows = self.transformed.view(WINDOW**2, -1, self.channels)
        torch.bmm(windows, self.weight, out=self.products)
        if self.channels_last:
            tiles = self.result.view(TILE**2, -1)
            torch.mm(self.to_tiles.t(), self.sums, out=tiles)
            return tiles.view(TILE, TILE, *self.grid, -1).permute(2, 3, 4, 0, 1)
        # By the transposed transform, which gives the tiles' rows dense at no cost.
        tiles = self.result.view(-1, TILE**2)
        torch.mm(self.sums.t(), self.to_tiles, out=tiles)
        return tiles.view(*self.grid, -1, TILE, TILE)


class GroupedProducts:
    """By oneDNN's 1x1 convolution in 36 groups, float32.

    oneDNN wants the weight in one of a few orders, which depends on the number of tiles at a time.
    With a weight in another order, every product would put it in order first, which takes up to a
    hundred times as long as the product.

    Args:
        weight: (36, O, C).
    """

    def __init__(self, weight: Tensor) -> None:
        self.dtype, (_, self.out_channels, self.channels) = weight.dtype, weight.shape
        # By order; the one without an order goes when the first one with an order has come.
        self._weights: dict[int | None, Tensor] = {None: weight.reshape(-1, self.channels, 1, 1)}

    def packed(self, tiles: int) -> Tensor:
        """The weight in the order that oneDNN wants for so many tiles at a time."""
        order = _order(self.out_channels, self.channels, tiles, torch.get_num_threads())
        if order not in self._weights:
            *_, weight = self._weights.values()  # any; in one step, as threads may share them
            plain = weight.to_dense() if weight.is_mkldnn else weight
            self._weights[order] = _pack(plain, tiles)
            self._weights.pop(None, None)
        return self._weights[order]

    def block(
        self, grid: Grid, matrices: Matrices, bias: Tensor | None, channels_last: bool
    ) -> Block:
        return _GroupedBlock(self, grid, matrices, bias, channels_last)


def _pack(weight: Tensor, tiles: int) -> Tensor:
    """Weight (36 O, C, 1, 1) in the order for so many tiles."""
    size = [1, WINDOW**2 * weight.shape[1], 1, tiles]
    pack = torch.ops.mkldnn._reorder_convolution_weight
    return pack(weight, [0, 0], [1, 1], [1, 1], WINDOW**2, size)


@cache
def _order(out_channels: int, channels: int, tiles: int, threads: int) -> int:
    """A number for the order; found in the memory of a weight of counted numbers."""
    count = WINDOW**2 * out_channels * channels
    counted = torch.arange(count, dtype=torch.float32, device="cpu")
    packed = _pack(counted.view(-1, channels, 1, 1), tiles)
    size = torch.ops.mkldnn._nbytes(packed)
    memory = ctypes.c_char * size
    return crc32(memory.from_address(torch.ops.mkldnn.data_ptr(packed)))


class _GroupedBlock:
    """The tiles come first."""

    def __init__(
        self,
        products: GroupedProducts,
        grid: Grid,
        matrices: Matrices,
        bias: Tensor | None,
        channels_last: bool,
    ) -> None:
        tiles, c, o = grid[0] * grid[1], products.channels, products.out_channels
        self.channels, self.weight, self.grid = c, products.packed(tiles), grid
        self.channels_last, self.to_tiles = channels_last, matrices.tile.expand(tiles, -1, -1)
        self.matrix = matrices.window.expand(tiles, -1, -1)
        new = matrices.window.new_empty
        self.gathered, self.transformed = new(2, tiles, WINDOW**2, c)
        self.windows = self.gathered.view(*grid, WINDOW, WINDOW, c).permute(2, 3, 0, 1, 4)
        self.result = new(tiles, TILE**2, o) if channels_last else new(tiles, o, TILE**2)
        self.bias = None if bias is None else torch.outer(matrices.ones, bias.to(new(0))).flatten()

    def tiles(self) -> Tensor:
        torch.bmm(self.matrix, self.gathered, out=self.transformed)
        # (1, 36 C, 1, tiles) in channels_last, without a copy
        maps = self.transformed.flatten(1)[None, None].permute(0, 3, 1, 2)
        maps = torch.ops.mkldnn._convolution_pointwise(
            maps, self.weight, self.bias, [0, 0], [1, 1], [1, 1], WINDOW**2, "none", [], ""
        )
        products = maps.permute(0, 2, 3, 1).view(len(self.transformed), WINDOW**2, -1)
        if self.channels_last:
            torch.bmm(self.to_tiles.mT, products, out=self.result)
            return self.result.view(*self.grid, TILE, TILE, -1).permute(0, 1, 4, 2, 3)
        torch.bmm(products.mT, self.to_tiles, out=self.result)
        return self.result.view(*self.grid, -1, TILE, TILE)


def best_products(weight: Tensor, tiles: int | None) -> Products:
    """Products with a transformed weight, (36, O, C), by the faster library.

    Args:
        tiles: how many they are used for, or None if they are kept.
    """
    used = tiles is None or tiles >= LEAST_TILES * torch.get_num_threads()
    grouped = used and weight.dtype == torch.float32 and takes_onednn(*weight.shape[1:])
    return GroupedProducts(weight) if grouped else BatchedProducts(weight)


def takes_onednn(out_channels: int, channels: int) -> bool:
    """Whether oneDNN's products are faster than MKL's for these channels on this processor."""
    least = processor.limits().onednn_channels
    return (
        least is not None
        and min(out_channels, channels) >= least
        and out_channels % 16 == channels % 16 == 0
    )
