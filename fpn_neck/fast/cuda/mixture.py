"""Triton functions that kernels share: a tile of pixels, its taps, logits at its pixels.

Logits at P pixels are tiles (B, P) of B classes. In NCHW neighbouring threads take neighbouring
pixels and B is small; in NHWC they take neighbouring classes. So both read memory in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A tap of weight 0 keeps a trace: 0 * infinity is NaN. The product of two is a normal number.
TRACE: tl.constexpr = tl.constexpr(2e-19)
LOWEST: tl.constexpr = tl.constexpr(-3.4028234663852886e38)  # of the finite numbers


@triton.jit
def wide(x, WIDE: tl.constexpr):
    """int64 if offsets need it."""
    if WIDE:
        x = x.to(tl.int64)
    return x


@triton.jit
def tile_pixels(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of the pixels of tile number ``tile``, and which of them are in the map.

    The others get the last row or column: what is read for them exists.
    """
    across = tl.cdiv(width, COLUMNS)
    pixel = tl.arange(0, ROWS * COLUMNS)
    row = (tile // across) * ROWS + pixel // COLUMNS
    column = (tile % across) * COLUMNS + pixel % COLUMNS
    inside = (row < height) & (column < width)
    return tl.minimum(row, height - 1), tl.minimum(column, width - 1), inside


@triton.jit
def taps(indices, weights, output, stride, S: tl.constexpr, WIDE: tl.constexpr):
    """Offsets and weights (1, P) of the four taps of ``output`` along one axis, of which S count.

    Args:
        indices, weights: pointers to the axis's tensors (outputs, S).
        output: positions (P,).
        stride: of the inputs.
    """
    o0, w0 = _tap(indices, weights, output, stride, 0, S, WIDE)
    o1, w1, o2, w2, o3, w3 = o0, w0, o0, w0, o0, w0
    if S > 1:
        o1, w1 = _tap(indices, weights, output, stride, 1, S, WIDE)
    if S > 2:
        o2, w2 = _tap(indices, weights, output, stride, 2, S, WIDE)
    if S > 3:
        o3, w3 = _tap(indices, weights, output, stride, 3, S, WIDE)
    return o0, o1, o2, o3, w0, w1, w2, w3


@triton.jit
def _tap(indices, weights, output, stride, s, S: tl.constexpr, WIDE: tl.constexpr):
    index = wide(tl.load(indices + output * S + s), WIDE)
    weight = tl.maximum(tl.load(weights + output * S + s), TRACE)
    return (index * stride)[None, :], weight[None, :]


@triton.jit
def mix(
    x, some,
    r0, r1, r2, r3, u0, u1, u2, u3, R: tl.constexpr,
    c0, c1, c2, c3, v0, v1, v2, v3, C: tl.constexpr,
):  # fmt: skip
    """Logits (B, P), float32: the weighted mean over R x C cells.

    Args:
        x: pointers (B, 1) to the first cell of B classes.
        some: (B, 1), the classes that exist; the others get any number.
        r0..., u0..., R: offsets and weights of the rows (`taps`), how many.
        c0..., v0..., C: of the columns.
    """
    value = _mix_row(x, some, r0, u0, c0, c1, c2, c3, v0, v1, v2, v3, C)
    if R > 1:
        value += _mix_row(x, some, r1, u1, c0, c1, c2, c3, v0, v1, v2, v3, C)
    if R > 2:
        value += _mix_row(x, some, r2, u2, c0, c1, c2, c3, v0, v1, v2, v3, C)
    if R > 3:
        value += _mix_row(x, some, r3, u3, c0, c1, c2, c3, v0, v1, v2, v3, C)
    return value


@triton.jit
def _mix_row(x, some, row, u, c0, c1, c2, c3, v0, v1, v2, v3, C: tl.constexpr):
    # Sums of two offsets and products of two weights are the same for all classes; the compiler
    # takes them out of the loop.
    value = (u * v0) * cells(x + (row + c0), some)
    if C > 1:
        value += (u * v1) * cells(x + (row + c1), some)
    if C > 2:
        value += (u * v2) * cells(x + (row + c2), some)
    if C > 3:
        value += (u * v3) * cells(x + (row + c3), some)
    return value


@triton.jit
def cells(x, some):
    """Logits in float32; any number for classes that do not exist."""
    mask = None if some.shape[0] == 1 else some  # one class: the loop over them ends in time
    return tl.load(x, mask=mask).to(tl.float32)
