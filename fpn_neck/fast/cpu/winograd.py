"""Winograd's F(4x4, 3x3) convolution in plain torch (Lavin and Gray, CVPR 2016, arXiv:1509.09308).

A 4x4 tile of the output needs a 6x6 window of the input. With both dimensions transformed,

    tile = A^T [ (G w G^T) * (B^T window B) ] A,

a 3x3 convolution takes 36 products where the direct sum has 144, and over all tiles and channels
they are one batched matrix product (`fpn_neck.fast.cpu.products`). The transforms are matrix
products too: the 36 numbers of a window times the Kronecker square of B^T. The work is done in
blocks of a few rows of tiles, whose buffers stay in the cache; inside a block channels come last,
whatever the maps' memory formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import ceil

import torch
from torch import Tensor

from fpn_neck.fast.cpu.products import TILE, WINDOW, Block, Matrices, Products, best_products
from fpn_neck.fast.cpu.threads import available_threads, run_in_threads
from fpn_neck.fast.memory_format import compute_dtype, is_channels_last

KERNEL = 3
# The polynomials are interpolated at these points and at infinity. Halves and quarters are exact in
# floating point, and these points round less than the usual 0, 1, -1, 2, -2.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# A block of so many tiles and its buffers are in the cache. Products of fewer rows are slower: what
# a block costs besides its tiles is like that many tiles more.
BLOCK_TILES, BLOCK_COST = 80, 8
# Addresses so many bytes apart share a set of the first cache, which holds so many lines.
SET_STRIDE, SET_LINES = 4096, 8
MARGIN_ROWS = 2  # of input above and below a block: one is needed, two keep the rows' parity

# fill_rows(n, start, end, target) writes rows start..end - 1 of image n into target,
# (C, end - start, W). Several threads may call it at the same time.
FillRows = Callable[[int, int, int, Tensor], object]
Run = list[tuple[int, int]]  # consecutive blocks, each an image and its first row


def transform_weight(weight: Tensor, like: Tensor | None = None) -> Products:
    """(O, C, 3, 3) -> products with G w G^T for every pair of channels; `compute_dtype`'s dtype.

    Args:
        like: a map of the size that they are used for once; None if they are kept.
    """
    o, c = weight.shape[:2]
    weight = weight.detach().to(compute_dtype(weight.dtype))
    flat = weight.permute(2, 3, 0, 1).reshape(KERNEL**2, o * c)
    tiles = None if like is None else len(like) * like.shape[-2] * like.shape[-1] // TILE**2
    return best_products((_matrices(weight.dtype).kernel @ flat).view(WINDOW**2, o, c), tiles)


def convolve(fill_rows: FillRows, products: Products, bias: Tensor | None, out: Tensor) -> Tensor:
    """3x3 convolution with stride 1 and padding 1 into ``out``, which is returned.

    Args:
        fill_rows: writes the input, see `FillRows`; called for the rows of a run in order, from an
            even row to an even row or the end.
        products: from `transform_weight`; their dtype is that of the arithmetic.
        bias: (O,) or None.
        out: (N, O, H, W), contiguous or channels_last, of any dtype.
    """
    (grid, runs), matrices = _plan(out), _matrices(products.dtype)
    # For each run, allocated here: memory that a thread allocates is not used again.
    blocks = [products.block(grid, matrices, bias, is_channels_last(out)) for _ in runs]
    run_in_threads(
        lambda part: _convolve_run(fill_rows, out, grid, *part),
        list(zip(runs, blocks, strict=True)),
    )
    return out


def _convolve_run(
    fill_rows: FillRows, out: Tensor, grid: tuple[int, int], run: Run, block: Block
) -> None:
    write = _Writer(out, grid)
    for n, y, strip in _strips(fill_rows, out, block.channels, grid, run):
        _gather(strip, WINDOW, block.windows)
        write(block.tiles(), n, y)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the weight, (O, C, 3, 3), from input (N, C, H, W) and gradient (N, O, H, W).

    In `compute_dtype`'s dtype.
    """
    (grid, runs), (c, o) = _plan(x), (x.shape[1], grad.shape[1])
    if not runs:  # no images
        return x.new_zeros((o, c, KERNEL, KERNEL), dtype=compute_dtype(x.dtype))
    # Each run has its own sum, so that the order of the additions stays the same. Allocated here:
    # memory that a thread allocates is not used again.
    parts = [_WeightGradient(x, grad, grid, run) for run in runs]
    total, *others = run_in_threads(_WeightGradient.sum, parts)
    for other in others:
        total += other
    flat = _matrices(total.dtype).kernel.t() @ total.view(WINDOW**2, c * o)
    return flat.view(KERNEL, KERNEL, c, o).permute(3, 2, 0, 1).contiguous()


class _WeightGradient:
    """The part of a run in the transformed weight's gradient, and the buffers for it.

    Args:
        x, grad: input and gradient of the output.
        grid: rows R and columns T of tiles in a block.
    """

    def __init__(self, x: Tensor, grad: Tensor, grid: tuple[int, int], run: Run) -> None:
        self.maps, self.grid, self.run = (x, grad), grid, run
        tiles, (c, o) = grid[0] * grid[1], (x.shape[1], grad.shape[1])
        self.total = x.new_zeros((WINDOW**2, c, o), dtype=compute_dtype(x.dtype))
        new = self.total.new_empty
        self.windows, self.transformed = new(2, WINDOW**2, tiles * c)
        self.grads, self.transformed_grads = new(TILE**2, tiles * o), new(WINDOW**2, tiles * o)

    def sum(self) -> Tensor:
        """(36, C, O)."""
        matrices, tiles = _matrices(self.total.dtype), self.grid[0] * self.grid[1]
        strips = (_strips(rows_of(m), m, m.shape[1], self.grid, self.run) for m in self.maps)
        for (_, _, strip), (_, _, grad_strip) in zip(*strips, strict=True):
            _gather(strip, WINDOW, self.windows.view(WINDOW, WINDOW, *self.grid, -1))
            torch.mm(matrices.window, self.windows, out=self.transformed)
            _gather(grad_strip[:, 1:-1, 1:-1], TILE, self.grads.view(TILE, TILE, *self.grid, -1))
            torch.mm(matrices.tile, self.grads, out=self.transformed_grads)
            x, grad = (
                flat.view(WINDOW**2, tiles, -1)
                for flat in (self.transformed, self.transformed_grads)
            )
            self.total.baddbmm_(x.mT, grad)
        return self.total


def rows_of(x: Tensor) -> FillRows:
    """Copies the rows of an existing map (N, C, H, W)."""
    if x.stride(1) * x.itemsize % SET_STRIDE:
        return lambda n, start, end, target: target.copy_(x[n, :, start:end])

    def fill_rows(n: int, start: int, end: int, target: Tensor) -> None:
        # A pixel's channels have one set of the first cache. Few of them at a time stay in it until
        # the next pixels of their lines are copied.
        channels = (rows.split(SET_LINES) for rows in (target, x[n, :, start:end]))
        for to, rows in zip(*channels, strict=True):
            to.copy_(rows)

    return fill_rows


@cache
def _matrices(dtype: torch.dtype) -> Matrices:
    def powers(count: int) -> Tensor:
        """1, x, x^2, ... at the points; only the last at infinity."""
        rows = [[p**k for k in range(count)] for p in POINTS] + [[0.0] * (count - 1) + [1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    with torch.inference_mode(False), torch.device("cpu"):  # whatever the default device is
        b, g, a = torch.linalg.inv(powers(WINDOW)), powers(KERNEL), powers(TILE)
        ones = torch.linalg.pinv(a.T).sum(1)  # A^T ones = 1, 1, 1, 1
        squares = [torch.kron(m, m) for m in (b.T, g, a, ones)]
        return Matrices(*(m.to(dtype) for m in squares))


def _plan(x: Tensor) -> tuple[tuple[int, int], list[Run]]:
    """Rows and columns of tiles in a block, and the map's blocks: a run for every thread, or one.

    Where our parts can't run in torch's threads, these share every operator of larger blocks.
    """
    rows, cols = (ceil(s / TILE) for s in x.shape[-2:])
    threads = available_threads()
    best = BLOCK_TILES * (torch.get_num_threads() if threads == 1 else 1)

    def cost(height: int) -> float:  # of the thread that has the most blocks
        count = ceil(len(x) * ceil(rows / height) / threads)
        return count * (height * cols + BLOCK_COST) * (1 if height * cols <= best else 1.1)

    grid = min(range(1, max(1, 2 * best // cols) + 1), key=cost), cols
    blocks = [(n, y) for n in range(len(x)) for y in range(0, x.shape[-2], TILE * grid[0])]
    size = max(1, ceil(len(blocks) / threads))
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


def _gather(strip: Tensor, side: int, out: Tensor) -> None:
    """Windows of side x side pixels, one every 4, of (C, H, W) -> (side, side, R, T, C)."""
    windows = strip.unfold(1, side, TILE).unfold(2, side, TILE)  # (C, R, T, side, side)
    out.copy_(windows.permute(3, 4, 1, 2, 0))


class _Writer:
    """Writes tiles into the rows of the output.

    Args:
        out: (N, O, H, W).
        grid: rows R and columns T of tiles in a block.
    """

    def __init__(self, out: Tensor, grid: tuple[int, int]) -> None:
        self.out, self.grid = out, grid
        h, w = TILE * grid[0], TILE * grid[1]
        shape = (h, w, out.shape[1]) if is_channels_last(out) else (out.shape[1], h, w)
        self.strip = out.new_empty(shape)
        if is_channels_last(out):
            self.strip = self.strip.permute(2, 0, 1)

    def __call__(self, tiles: Tensor, n: int, y: int) -> None:
        """``tiles``: (R, T, O, 4, 4), of which the last two or O are dense, as in the output."""
        rows = self.out[n, :, y : y + TILE * self.grid[0]]
        # Tiles at the border may reach beyond the output.
        target = rows if rows.shape == self.strip.shape else self.strip
        view = target.unfold(1, TILE, TILE).unfold(2, TILE, TILE).permute(1, 2, 0, 3, 4)
        if target.dtype == tiles.dtype == torch.float32 and tiles.stride()[-2:] == (TILE, 1):
            # A row of a tile, 16 bytes, is copied as one number.
            tiles = tiles.view(torch.complex128)
            view = target.view(torch.complex128).unfold(1, TILE, TILE)[..., None]
            view = view.permute(1, 2, 0, 3, 4)
        view.copy_(tiles)
        if target is not rows:
            rows.copy_(target[:, : rows.shape[1], : rows.shape[2]])
