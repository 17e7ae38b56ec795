"""The kernel of `fpn_neck.fast.cuda.labels`."""

from __future__ import annotations

import triton
import triton.language as tl

from fpn_neck.fast.cuda.mixture import mix, taps, tile_pixels, wide


@triton.jit(
    do_not_specialize=[
        "classes", "height", "width", "by_image", "by_class", "by_row", "by_column",
    ]
)  # fmt: skip
def write_labels(
    x, row_indices, row_weights, column_indices, column_weights, labels,
    classes, height, width, by_image, by_class, by_row, by_column,
    R: tl.constexpr, C: tl.constexpr,
    B: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CLASS_LAST: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Labels of a tile of ROWS x COLUMNS pixels; grid (tiles, images).

    The running maximum and its class are kept for every pixel and each of B classes, so that
    threads meet only once, after the loop.
    """
    row, column, inside = tile_pixels(tl.program_id(0), height, width, ROWS, COLUMNS)
    r0, r1, r2, r3, u0, u1, u2, u3 = taps(row_indices, row_weights, row, by_row, R, WIDE)
    c0, c1, c2, c3, v0, v1, v2, v3 = taps(
        column_indices, column_weights, column, by_column, C, WIDE
    )
    if CLASS_LAST:
        by_class = 1
    image = tl.program_id(1).to(tl.int64)
    x += image * by_image
    best = tl.full((B, ROWS * COLUMNS), float("-inf"), tl.float32)
    label = tl.zeros((B, ROWS * COLUMNS), tl.int32)
    for start in range(0, classes, B):
        k = wide(start + tl.arange(0, B)[:, None], WIDE)
        some = k < classes
        value = mix(
            x + k * by_class, some,
            r0, r1, r2, r3, u0, u1, u2, u3, R,
            c0, c1, c2, c3, v0, v1, v2, v3, C,
        )  # fmt: skip
        larger = value > best
        if B > 1:
            larger = larger & some
        best = tl.where(larger, value, best)
        label = tl.where(larger, start, label)
    if ONE:
        found = (tl.max(best, 0) > 0).to(tl.int32)
    else:
        label += tl.arange(0, B)[:, None]
        first = tl.where(best == tl.max(best, 0)[None, :], label, classes)
        found = tl.min(first, 0)
    labels += image * height * width + wide(row, WIDE) * width
    tl.store(labels + column, found.to(labels.dtype.element_ty), mask=inside)
