"""Winograd's F(4x4, 3x3) convolution in plain torch (Lavin and Gray, CVPR 2016, arXiv:1509.09308).

A 4x4 tile of the output needs a 6x6 window of the input. With both dimensions transformed,

    tile = A^T [ (G w G^T) * (B^T window B) ] A,

a 3x3 convolution takes 36 products where the direct sum has 144, and over all tiles and channels
they are one batched matrix product. The transforms are matrix products too: the 36 numbers of a
window times the Kronecker square of B^T. The work is done in blocks of a few rows of tiles, whose
buffers stay in the cache; inside a block channels come last, whatever the maps' memory formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from fpn_neck.fast.cpu.memory import compute_dtype
from fpn_neck.fast.cpu.threads import run_in_threads
from fpn_neck.fast.memory_format import is_channels_last

TILE, WINDOW, KERNEL = 4, 6, 3
# The polynomials are interpolated at these points and at infinity. Halves and quarters are exact in
# floating point, and these points round less than the usual 0, 1, -1, 2, -2.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
BLOCK_TILES_PER_THREAD = 80
# With fewer tiles, about 30 ms of work at 256 channels, our own threads don't pay: right after an
# operator of torch, torch's waiting threads occupy the cores for a few ms.
LEAST_TILES_PER_THREAD = 1200
ALIGNMENT = 16  # numbers; a buffer that begins at a multiple of it can be viewed in other dtypes
MARGIN_ROWS = 2  # of input above and below a block: one is needed, two keep the rows' parity

# fill_rows(n, start, end, target) writes rows start..end - 1 of image n into target,
# (C, end - start, W). Several threads may call it at the same time.
FillRows = Callable[[int, int, int, Tensor], object]
Run = list[tuple[int, int]]  # consecutive blocks, each an image and its first row


def transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O), G w G^T for every pair of channels; `compute_dtype`'s dtype."""
    o, c = weight.shape[:2]
    weight = weight.detach().to(compute_dtype(weight.dtype))
    flat = weight.permute(2, 3, 1, 0).reshape(KERNEL**2, c * o)
    return (_matrices(weight.dtype).kernel @ flat).view(WINDOW**2, c, o)


def convolve(fill_rows: FillRows, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """3x3 convolution with stride 1 and padding 1 into ``out``, which is returned.

    Args:
        fill_rows: writes the input, see `FillRows`; called for the rows of a run in order, from an
            even row to an even row or the end.
        weight: (36, C, O), from `transform_weight`; its dtype is that of the arithmetic.
        bias: (O,) or None.
        out: (N, O, H, W), contiguous or channels_last, of any dtype.
    """
    (grid, runs), (c, o) = _plan(out), weight.shape[1:]
    # Two for each run, allocated here: memory that a thread allocates is not used again.
    size = ceil(grid[0] * grid[1] * (o + WINDOW**2 * max(c, o)) / ALIGNMENT) * ALIGNMENT
    buffers = weight.new_empty(len(runs), 2, size)
    run_in_threads(
        lambda part: _convolve_run(fill_rows, weight, bias, out, grid, *part),
        list(zip(runs, buffers, strict=True)),
    )
    return out


def _convolve_run(
    fill_rows: FillRows,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    grid: tuple[int, int],
    run: Run,
    buffers: Tensor,
) -> None:
    matrices, (buffer, other) = _matrices(weight.dtype), buffers
    tiles, (c, o) = grid[0] * grid[1], weight.shape[1:]
    # The bias is one more product, the same for every tile.
    buffer[: tiles * o].view(tiles, o).copy_(buffer.new_zeros(()) if bias is None else bias)
    windows = buffer[tiles * o :][: WINDOW**2 * tiles * c].view(WINDOW**2, -1)
    transformed = other[: windows.numel()].view(WINDOW**2, -1)
    products = buffer[tiles * o :][: WINDOW**2 * tiles * o].view(WINDOW**2, tiles, o)
    sums = buffer[: (1 + WINDOW**2) * tiles * o].view(1 + WINDOW**2, -1)
    write = _Writer(out, grid, other[: TILE**2 * tiles * o])
    for n, y, strip in _strips(fill_rows, out, c, grid, run):
        _gather(strip, WINDOW, grid, windows)
        torch.mm(matrices.window, windows, out=transformed)
        torch.bmm(transformed.view(WINDOW**2, tiles, c), weight, out=products)
        write(sums, matrices.tile, n, y)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the weight, (O, C, 3, 3), from input (N, C, H, W) and gradient (N, O, H, W).

    In `compute_dtype`'s dtype.
    """
    (grid, runs), (c, o) = _plan(x), (x.shape[1], grad.shape[1])
    if not runs:  # no images
        return x.new_zeros((o, c, KERNEL, KERNEL), dtype=compute_dtype(x.dtype))
    # Each run has its own sum, so that the order of the additions stays the same.
    total, *others = run_in_threads(lambda run: _weight_gradient_run(x, grad, grid, run), runs)
    for other in others:
        total += other
    flat = _matrices(total.dtype).kernel.t() @ total.view(WINDOW**2, c * o)
    return flat.view(KERNEL, KERNEL, c, o).permute(3, 2, 0, 1).contiguous()


def _weight_gradient_run(x: Tensor, grad: Tensor, grid: tuple[int, int], run: Run) -> Tensor:
    dtype, tiles, c, o = compute_dtype(x.dtype), grid[0] * grid[1], x.shape[1], grad.shape[1]
    matrices, total = _matrices(dtype), x.new_zeros((WINDOW**2, c, o), dtype=dtype)
    windows, transformed = total.new_empty(2, WINDOW**2, tiles * c)
    grads, transformed_grads = (total.new_empty(n, tiles * o) for n in (TILE**2, WINDOW**2))
    strips = _strips(rows_of(x), x, c, grid, run), _strips(rows_of(grad), x, o, grid, run)
    for (_, _, strip), (_, _, grad_strip) in zip(*strips, strict=True):
        _gather(strip, WINDOW, grid, windows)
        torch.mm(matrices.window, windows, out=transformed)
        _gather(grad_strip[:, 1:-1, 1:-1], TILE, grid, grads)
        torch.mm(matrices.tile[1:], grads, out=transformed_grads)
        total.baddbmm_(transformed.view(-1, tiles, c).mT, transformed_grads.view(-1, tiles, o))
    return total


def rows_of(x: Tensor) -> FillRows:
    """Copies the rows of an existing map (N, C, H, W)."""
    return lambda n, start, end, target: target.copy_(x[n, :, start:end])


class _Matrices(NamedTuple):
    window: Tensor  # (36, 36), B^T x B^T
    kernel: Tensor  # (36, 9), G x G
    tile: Tensor  # (1 + 36, 16), a row of ones for the bias above A x A


@cache
def _matrices(dtype: torch.dtype) -> _Matrices:
    def powers(count: int) -> Tensor:  # 1, x, x^2, ... at the points; only the last at infinity
        rows = [[p**k for k in range(count)] for p in POINTS] + [[0.0] * (count - 1) + [1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    with torch.inference_mode(False), torch.device("cpu"):  # whatever the default device is
        b, g, a = torch.linalg.inv(powers(WINDOW)), powers(KERNEL), powers(TILE)
        tile = torch.cat((torch.ones(1, TILE**2, dtype=a.dtype), torch.kron(a, a)))
        return _Matrices(*(m.to(dtype) for m in (torch.kron(b.T, b.T), torch.kron(g, g), tile)))


def _plan(x: Tensor) -> tuple[tuple[int, int], list[Run]]:
    """Rows and columns of tiles in a block, and the map's blocks: a run for every thread, or one.

    With one run, torch's threads share every block, and blocks are larger.
    """
    rows, cols = (ceil(s / TILE) for s in x.shape[-2:])
    threads = torch.get_num_threads()
    by_thread = len(x) * rows * cols >= threads * LEAST_TILES_PER_THREAD
    most = max(1, BLOCK_TILES_PER_THREAD * (1 if by_thread else threads) // cols)
    grid = ceil(rows / ceil(rows / most)), cols  # rows are spread evenly over the blocks
    blocks = [(n, y) for n in range(len(x)) for y in range(0, x.shape[-2], TILE * grid[0])]
    size = max(1, ceil(len(blocks) / threads)) if by_thread else max(1, len(blocks))
    return grid, [blocks[i : i + size] for i in range(0, len(blocks), size)]


def _strips(
    fill_rows: FillRows, like: Tensor, channels: int, grid: tuple[int, int], run: Run
) -> Iterator[tuple[int, int, Tensor]]:
    """For every block: its image, first row, and input (C, 4 R + 2, 4 T + 2), zero outside."""
    (height, width), step = like.shape[-2:], TILE * grid[0]
    # Begins at row y - MARGIN_ROWS, column -1.
    shape = step + 2 * MARGIN_ROWS, TILE * grid[1] + 2, channels
    strip = like.new_zeros(shape, dtype=compute_dtype(like.dtype)).permute(2, 0, 1)
    for i, (n, y) in enumerate(run):
        start = max(0, y - MARGIN_ROWS)
        if y == 0:
            strip[:, :MARGIN_ROWS] = 0
        elif i:  # the last rows of the block above are the first ones of this block
            strip[:, : 2 * MARGIN_ROWS] = strip[:, step:]
            start = y + MARGIN_ROWS
        end = min(y + step + MARGIN_ROWS, height)
        at = start - y + MARGIN_ROWS
        if start < end:
            fill_rows(n, start, end, strip[:, at : at + end - start, 1 : width + 1])
        strip[:, max(at, at + end - start) :] = 0
        yield n, y, strip[:, MARGIN_ROWS - 1 : step + MARGIN_ROWS + 1]


def _gather(strip: Tensor, side: int, grid: tuple[int, int], out: Tensor) -> None:
    """Windows of side x side pixels, one every 4, of (C, H, W) -> (side * side, R * T * C)."""
    windows = strip.unfold(1, side, TILE).unfold(2, side, TILE)  # (C, R, T, side, side)
    out.view(side, side, *grid, -1).copy_(windows.permute(3, 4, 1, 2, 0))


class _Writer:
    """Transforms products to tiles and writes these into the rows of the output.

    Args:
        out: (N, O, H, W).
        grid: rows R and columns T of tiles in a block.
        buffer: for the tiles of a block, 16 * R * T * O numbers.
    """

    def __init__(self, out: Tensor, grid: tuple[int, int], buffer: Tensor) -> None:
        self.out, self.grid, self.tiles = out, grid, buffer
        self.channels_last = is_channels_last(out)
        h, w = TILE * grid[0], TILE * grid[1]
        shape = (h, w, out.shape[1]) if self.channels_last else (out.shape[1], h, w)
        self.strip = out.new_empty(shape)
        if self.channels_last:
            self.strip = self.strip.permute(2, 0, 1)

    def __call__(self, products: Tensor, to_tiles: Tensor, n: int, y: int) -> None:
        rows = self.out[n, :, y : y + TILE * self.grid[0]]
        # Tiles at the border may reach beyond the output.
        target = rows if rows.shape == self.strip.shape else self.strip
        view = target.unfold(1, TILE, TILE).unfold(2, TILE, TILE)  # (O, R, T, 4, 4)
        if self.channels_last:
            tiles = self.tiles.view(TILE**2, -1)
            torch.mm(to_tiles.t(), products, out=tiles)
            view.permute(3, 4, 1, 2, 0).copy_(tiles.view(TILE, TILE, *self.grid, -1))
        else:
            tiles = self.tiles.view(-1, TILE**2)
            torch.mm(products.t(), to_tiles, out=tiles)
            tiles = tiles.view(*self.grid, -1, TILE, TILE)
            if target.dtype == tiles.dtype == torch.float32:
                # A row of a tile, 16 bytes, is copied as one number.
                tiles = tiles.view(torch.complex128)
                view = target.view(torch.complex128).unfold(1, TILE, TILE)[..., None]
            view.permute(1, 2, 0, 3, 4).copy_(tiles)
        if target is not rows:
            rows.copy_(target[:, : rows.shape[1], : rows.shape[2]])
