"""The kernels of `fpn_neck.fast.cuda.losses`, forward: sums over pixels.

A pixel's label and whether its logit is the largest are one number: ``2 * label + largest``, or -2
if the pixel is ignored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fpn_neck.fast.cuda.mixture import LOWEST, mix, taps, tile_pixels, wide


@triton.jit(
    do_not_specialize=[
        "classes", "height", "width", "by_image", "by_class", "by_row", "by_column",
        "ignore_index",
    ]
)  # fmt: skip
def write_pixels(
    x, target, row_indices, row_weights, column_indices, column_weights, lse, log_p, codes,
    classes, height, width, by_image, by_class, by_row, by_column, ignore_index,
    R: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Of a tile of pixels: ``lse``, log p of the label, code; grid (tiles, images).

    One pass over the classes, with the maximum and the sum of exp up to here.
    """
    row, column, inside = tile_pixels(tl.program_id(0), height, width, ROWS, COLUMNS)
    r0, r1, r2, r3, u0, u1, u2, u3 = taps(row_indices, row_weights, row, by_row, R, WIDE)
    c0, c1, c2, c3, v0, v1, v2, v3 = taps(
        column_indices, column_weights, column, by_column, C, WIDE
    )
    image = tl.program_id(1).to(tl.int64)
    x += image * by_image
    pixel = image * height * width + (wide(row, WIDE) * width + column)[None, :]
    inside = inside[None, :]
    label = tl.load(target + pixel)
    valid = (label != ignore_index) & (label >= 0) & (label < classes)
    label = tl.where(valid, label, -1).to(tl.int32)
    best = tl.full((1, ROWS * COLUMNS), LOWEST, tl.float32)
    total = tl.zeros((1, ROWS * COLUMNS), tl.float32)
    own = tl.zeros((1, ROWS * COLUMNS), tl.float32)
    first = tl.zeros((1, ROWS * COLUMNS), tl.int32)
    for start in range(0, classes):
        k = start + tl.zeros((1, 1), tl.int32)
        value = mix(
            x + wide(k, WIDE) * by_class, k < classes,
            r0, r1, r2, r3, u0, u1, u2, u3, R,
            c0, c1, c2, c3, v0, v1, v2, v3, C,
        )  # fmt: skip
        own = tl.where(k == label, value, own)
        larger = value > best
        scale = tl.exp(-tl.abs(value - best))
        total = tl.where(larger, total * scale + 1.0, total + scale)
        best = tl.where(larger, value, best)
        first = tl.where(larger, k, first)
    out = best + tl.log(total)
    out += out - out  # infinity becomes NaN: it means 'ignored'
    tl.store(lse + pixel, tl.where(valid, out, float("inf")), mask=inside)
    tl.store(log_p + pixel, own - out, mask=inside)
    tl.store(codes + pixel, 2 * label + (first == label).to(tl.int32), mask=inside)


@triton.jit(
    do_not_specialize=[
        "images", "classes", "height", "width", "by_image", "by_class", "by_row", "by_column",
    ]
)  # fmt: skip
def add_pixels(
    x, row_indices, row_weights, column_indices, column_weights, lse, log_p, codes, sums,
    images, classes, height, width, by_image, by_class, by_row, by_column,
    R: tl.constexpr, C: tl.constexpr, B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TILES: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums of B classes over TILES tiles of pixels -> sums (chunks, 6, K); grid (chunks, blocks).

    Every pixel of the tile has its own sums until the tiles are done: a fixed order.
    """
    P: tl.constexpr = ROWS * COLUMNS
    k = tl.program_id(1) * B + tl.arange(0, B)[:, None]
    some = k < classes
    count = tl.zeros((B, P), tl.float32)
    own_log_p = tl.zeros((B, P), tl.float32)
    own_p = tl.zeros((B, P), tl.float32)
    correct = tl.zeros((B, P), tl.float32)
    if DENSE:
        all_p = tl.zeros((B, P), tl.float32)
        all_log_p = tl.zeros((B, P), tl.float32)
    tiles = tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
    first = tl.program_id(0) * TILES
    for t in range(first, tl.minimum(first + TILES, images * tiles)):
        row, column, inside = tile_pixels(t % tiles, height, width, ROWS, COLUMNS)
        image = (t // tiles).to(tl.int64)
        pixel = image * height * width + (wide(row, WIDE) * width + column)
        code = tl.load(codes + pixel, mask=inside, other=-2)[None, :]
        own = tl.load(log_p + pixel)[None, :]
        hit = (code >> 1) == k
        count += tl.where(hit, 1.0, 0.0)
        own_log_p += tl.where(hit, own, 0.0)
        own_p += tl.where(hit, tl.exp(own), 0.0)
        correct += tl.where(hit & ((code & 1) == 1), 1.0, 0.0)
        if DENSE:
            r0, r1, r2, r3, u0, u1, u2, u3 = taps(row_indices, row_weights, row, by_row, R, WIDE)
            c0, c1, c2, c3, v0, v1, v2, v3 = taps(
                column_indices, column_weights, column, by_column, C, WIDE
            )
            value = mix(
                x + image * by_image + wide(k, WIDE) * by_class, some,
                r0, r1, r2, r3, u0, u1, u2, u3, R,
                c0, c1, c2, c3, v0, v1, v2, v3, C,
            )  # fmt: skip
            value -= tl.load(lse + pixel)[None, :]
            value = tl.where(code >= 0, value, float("-inf"))
            all_p += tl.exp(value)
            all_log_p += tl.where(code >= 0, value, 0.0)
    sums += tl.program_id(0).to(tl.int64) * 6 * classes
    _write_sum(sums, 0, count, k, classes)
    _write_sum(sums, 1, own_log_p, k, classes)
    _write_sum(sums, 2, own_p, k, classes)
    _write_sum(sums, 3, correct, k, classes)
    if DENSE:
        _write_sum(sums, 4, all_p, k, classes)
        _write_sum(sums, 5, all_log_p, k, classes)


@triton.jit
def _write_sum(sums, row, values, k, classes):
    tl.store(sums + row * classes + k, tl.sum(values, 1)[:, None], mask=k < classes)
