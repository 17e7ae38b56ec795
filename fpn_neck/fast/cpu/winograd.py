"""Winograd's F(4x4, 3x3) convolution in plain torch (Lavin and Gray, CVPR 2016, arXiv:1509.09308).

A 4x4 tile of the output needs a 6x6 window of the input. With both dimensions transformed,

    tile = A^T [ (G w G^T) * (B^T window B) ] A,

a 3x3 convolution takes 36 products where the direct sum has 144, and over all tiles and channels
they are one batched matrix product. The transforms are matrix products too: the 36 numbers of a
window times the Kronecker square of B^T. Work goes by blocks of a few rows of tiles, small enough
for the buffers to stay in the cache; inside, channels come last, whatever the maps' own layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from fpn_neck.fast.cpu.memory import computed_in
from fpn_neck.fast.cpu.threads import spread
from fpn_neck.fast.memory_format import is_channels_last

TILE, WINDOW, KERNEL = 4, 6, 3
# Between these points and infinity the polynomials are interpolated. Halves and quarters are exact
# in floating point, and this choice rounds less than the usual 0, 1, -1, 2, -2.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
TILES_PER_THREAD = 80  # of a block
# A thread does that many by itself, about 30 ms of work at 256 channels. Threads of ours that start
# right after an operator of torch's find the cores taken, for a few ms, by torch's waiting ones.
LEAST_TILES_ALONE = 1200
ALIGNED = 16  # numbers; a buffer that begins at a multiple can be viewed in other dtypes
MARGIN = 2  # rows of input above and below a block: one is needed, two keep the rows' parity

# fill(n, start, end, target) writes rows start..end of image n into target (C, end - start, W).
# Several threads may call it at once.
Fill = Callable[[int, int, int, Tensor], object]
Run = list[tuple[int, int]]  # blocks that follow one another: image, first row


def transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O), G w G^T for every pair of channels, in `computed_in`'s dtype."""
    o, c = weight.shape[:2]
    weight = weight.detach().to(computed_in(weight.dtype))
    flat = weight.permute(2, 3, 1, 0).reshape(KERNEL**2, c * o)
    return (_matrices(weight.dtype).kernel @ flat).view(WINDOW**2, c, o)


def convolve(fill: Fill, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """3x3 convolution with stride 1 and padding 1 into ``out``, which is returned.

    Args:
        fill: gives the input, see `Fill`; asked for the rows of a run in order, from even row to
            even row or the end.
        weight: (36, C, O), from `transform_weight`, in the dtype to compute in.
        bias: (O,) or None.
        out: (N, O, H, W), contiguous or channels_last, of any dtype.
    """
    (grid, runs), (c, o) = _plan(out), weight.shape[1:]
    # Two for each run. A thread's own memory would be given back and got again every time.
    size = ceil(grid[0] * grid[1] * (o + WINDOW**2 * max(c, o)) / ALIGNED) * ALIGNED
    buffers = weight.new_empty(len(runs), 2, size)
    spread(
        lambda part: _convolve_run(fill, weight, bias, out, grid, *part),
        list(zip(runs, buffers, strict=True)),
    )
    return out


def _convolve_run(
    fill: Fill,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    grid: tuple[int, int],
    run: Run,
    buffers: Tensor,
) -> None:
    matrices, (first, second) = _matrices(weight.dtype), buffers
    tiles, (c, o) = grid[0] * grid[1], weight.shape[1:]
    # The bias is one more product, the same for every tile.
    first[: tiles * o].view(tiles, o).copy_(first.new_zeros(()) if bias is None else bias)
    windows = first[tiles * o :][: WINDOW**2 * tiles * c].view(WINDOW**2, -1)
    transformed = second[: windows.numel()].view(WINDOW**2, -1)
    products = first[tiles * o :][: WINDOW**2 * tiles * o].view(WINDOW**2, tiles, o)
    sums = first[: (1 + WINDOW**2) * tiles * o].view(1 + WINDOW**2, -1)
    write = _Writer(out, grid, second[: TILE**2 * tiles * o])
    for n, y, strip in _strips(fill, out, c, grid, run):
        _gather(strip, WINDOW, grid, windows)
        torch.mm(matrices.window, windows, out=transformed)
        torch.bmm(transformed.view(WINDOW**2, tiles, c), weight, out=products)
        write(sums, matrices.tile, n, y)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the weight, (O, C, 3, 3), from input (N, C, H, W) and gradient (N, O, H, W).

    In `computed_in`'s dtype.
    """
    (grid, runs), (c, o) = _plan(x), (x.shape[1], grad.shape[1])
    if not runs:  # no images
        return x.new_zeros((o, c, KERNEL, KERNEL), dtype=computed_in(x.dtype))
    # Each run has a sum of its own: the order of additions stays the same.
    first, *others = spread(lambda run: _weight_gradient_run(x, grad, grid, run), runs)
    for other in others:
        first += other
    flat = _matrices(first.dtype).kernel.t() @ first.view(WINDOW**2, c * o)
    return flat.view(KERNEL, KERNEL, c, o).permute(3, 2, 0, 1).contiguous()


def _weight_gradient_run(x: Tensor, grad: Tensor, grid: tuple[int, int], run: Run) -> Tensor:
    dtype, tiles, c, o = computed_in(x.dtype), grid[0] * grid[1], x.shape[1], grad.shape[1]
    matrices, total = _matrices(dtype), x.new_zeros((WINDOW**2, c, o), dtype=dtype)
    windows, transformed = total.new_empty(2, WINDOW**2, tiles * c)
    grads, spread_grads = (total.new_empty(n, tiles * o) for n in (TILE**2, WINDOW**2))
    strips = _strips(rows_of(x), x, c, grid, run), _strips(rows_of(grad), x, o, grid, run)
    for (_, _, strip), (_, _, grad_strip) in zip(*strips, strict=True):
        _gather(strip, WINDOW, grid, windows)
        torch.mm(matrices.window, windows, out=transformed)
        _gather(grad_strip[:, 1:-1, 1:-1], TILE, grid, grads)
        torch.mm(matrices.tile[1:], grads, out=spread_grads)
        total.baddbmm_(transformed.view(-1, tiles, c).mT, spread_grads.view(-1, tiles, o))
    return total


def rows_of(x: Tensor) -> Fill:
    """Rows of a map (N, C, H, W) that exists already."""
    return lambda n, start, end, target: target.copy_(x[n, :, start:end])


class _Matrices(NamedTuple):
    window: Tensor  # (36, 36), B^T x B^T
    kernel: Tensor  # (36, 9), G x G
    tile: Tensor  # (1 + 36, 16), ones for the bias over A x A


@cache
def _matrices(dtype: torch.dtype) -> _Matrices:
    def powers(count: int) -> Tensor:  # 1, x, x^2, ... at the points; at infinity the last alone
        rows = [[p**k for k in range(count)] for p in POINTS] + [[0.0] * (count - 1) + [1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    with torch.inference_mode(False), torch.device("cpu"):  # whatever the default device is
        b, g, a = torch.linalg.inv(powers(WINDOW)), powers(KERNEL), powers(TILE)
        tile = torch.cat((torch.ones(1, TILE**2, dtype=a.dtype), torch.kron(a, a)))
        return _Matrices(*(m.to(dtype) for m in (torch.kron(b.T, b.T), torch.kron(g, g), tile)))


def _plan(x: Tensor) -> tuple[tuple[int, int], list[Run]]:
    """Rows and columns of tiles in a block, and the map's blocks, a run for every thread or one.

    With one run, torch's threads share every block, which is larger then.
    """
    rows, cols = (ceil(s / TILE) for s in x.shape[-2:])
    threads = torch.get_num_threads()
    alone = len(x) * rows * cols >= threads * LEAST_TILES_ALONE
    most = max(1, TILES_PER_THREAD * (1 if alone else threads) // cols)
    grid = ceil(rows / ceil(rows / most)), cols  # rows are spread evenly over the blocks
    blocks = [(n, y) for n in range(len(x)) for y in range(0, x.shape[-2], TILE * grid[0])]
    size = max(1, ceil(len(blocks) / threads)) if alone else max(1, len(blocks))
    return grid, [blocks[i : i + size] for i in range(0, len(blocks), size)]


def _strips(
    fill: Fill, like: Tensor, channels: int, grid: tuple[int, int], run: Run
) -> Iterator[tuple[int, int, Tensor]]:
    """For every block: its image, first row, and input (C, 4 R + 2, 4 T + 2), zero outside."""
    (height, width), step = like.shape[-2:], TILE * grid[0]
    # Begins at row y - MARGIN, column -1.
    shape = step + 2 * MARGIN, TILE * grid[1] + 2, channels
    strip = like.new_zeros(shape, dtype=computed_in(like.dtype)).permute(2, 0, 1)
    for i, (n, y) in enumerate(run):
        start = max(0, y - MARGIN)
        if y == 0:
            strip[:, :MARGIN] = 0
        elif i:  # the block above has left some rows
            strip[:, : 2 * MARGIN] = strip[:, step:]
            start = y + MARGIN
        end = min(y + step + MARGIN, height)
        at = start - y + MARGIN
        if start < end:
            fill(n, start, end, strip[:, at : at + end - start, 1 : width + 1])
        strip[:, max(at, at + end - start) :] = 0
        yield n, y, strip[:, MARGIN - 1 : step + MARGIN + 1]


def _gather(strip: Tensor, side: int, grid: tuple[int, int], out: Tensor) -> None:
    """Windows of side x side pixels, one every 4, of (C, H, W) -> (side * side, R * T * C)."""
    windows = strip.unfold(1, side, TILE).unfold(2, side, TILE)  # (C, R, T, side, side)
    out.view(side, side, *grid, -1).copy_(windows.permute(3, 4, 1, 2, 0))


class _Writer:
    """From products to rows of the output; ``buffer`` holds the tiles in between."""

    def __init__(self, out: Tensor, grid: tuple[int, int], buffer: Tensor) -> None:
        self.out, self.grid, self.tiles = out, grid, buffer
        self.last = is_channels_last(out)
        h, w = TILE * grid[0], TILE * grid[1]
        shape = (h, w, out.shape[1]) if self.last else (out.shape[1], h, w)
        self.strip = out.new_empty(shape)
        if self.last:
            self.strip = self.strip.permute(2, 0, 1)

    def __call__(self, products: Tensor, to_tiles: Tensor, n: int, y: int) -> None:
        rows = self.out[n, :, y : y + TILE * self.grid[0]]
        target = rows if rows.shape == self.strip.shape else self.strip  # if no tile overhangs
        view = target.unfold(1, TILE, TILE).unfold(2, TILE, TILE)  # (O, R, T, 4, 4)
        if self.last:
            tiles = self.tiles.view(TILE**2, -1)
            torch.mm(to_tiles.t(), products, out=tiles)
            view.permute(3, 4, 1, 2, 0).copy_(tiles.view(TILE, TILE, *self.grid, -1))
        else:
            tiles = self.tiles.view(-1, TILE**2)
            torch.mm(products.t(), to_tiles, out=tiles)
            tiles = tiles.view(*self.grid, -1, TILE, TILE)
            if (
                target.dtype == tiles.dtype == torch.float32
            ):  # copies a row of a tile, 16 bytes, as one number
                tiles = tiles.view(torch.complex128)
                view = target.view(torch.complex128).unfold(1, TILE, TILE)[..., None]
            view.permute(1, 2, 0, 3, 4).copy_(tiles)
        if target is not rows:
            rows.copy_(target[:, : rows.shape[1], : rows.shape[2]])
