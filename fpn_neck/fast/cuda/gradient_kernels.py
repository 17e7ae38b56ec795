"""The kernels of `fpn_neck.fast.cuda.losses`, backward.

With t the label of pixel i, x its logits and d the derivatives by the sums, of which log_p and p
are of the label's pixels, all_p and all_log_p of all::

    a_i = d[log_p, t] + d[p, t] p_it
    b_i = a_i + sum_k (d[all_p, k] p_ik + d[all_log_p, k])
    gradient of x_ik = p_ik (d[all_p, k] - b_i) + a_i [k = t] + d[all_log_p, k]

The first kernel writes a and b, one number each per pixel. If only the derivatives by log_p are
not 0, b equals a, and it writes only a. The second gathers: a cell takes its weighted part of the
gradients of the pixels that use it, so no two threads write to one place.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fpn_neck.fast.cuda.mixture import LOG2_E, LOWEST, TRACE, cells, mix, taps, tile_pixels, wide


@triton.jit(
    do_not_specialize=[
        "classes", "height", "width", "by_image", "by_class", "by_row", "by_column",
    ]
)  # fmt: skip
def write_pixel_derivatives(
    x, target, row_indices, row_weights, column_indices, column_weights, lse, derivatives, a, b,
    classes, height, width, by_image, by_class, by_row, by_column,
    R: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """a and, if DENSE, b of a tile of pixels, 0 where ignored; grid (tiles, images)."""
    row, column, inside = tile_pixels(tl.program_id(0), height, width, ROWS, COLUMNS)
    image = tl.program_id(1).to(tl.int64)
    pixel = image * height * width + (wide(row, WIDE) * width + column)[None, :]
    inside = inside[None, :]
    out = tl.load(lse + pixel)
    valid = out != float("inf")
    label = tl.load(target + pixel).to(tl.int32)
    pull = tl.load(derivatives + classes + label, mask=valid, other=0.0)
    if DENSE:
        r0, r1, r2, r3, u0, u1, u2, u3 = taps(row_indices, row_weights, row, by_row, R, WIDE)
        c0, c1, c2, c3, v0, v1, v2, v3 = taps(
            column_indices, column_weights, column, by_column, C, WIDE
        )
        x += image * by_image
        u0, u1 = u0 * LOG2_E, u1 * LOG2_E
        scaled = out * LOG2_E
        mean = tl.zeros((1, ROWS * COLUMNS), tl.float32)
        own = tl.zeros((1, ROWS * COLUMNS), tl.float32)
        for start in range(0, classes):
            k = start + tl.zeros((1, 1), tl.int32)
            value = mix(
                x + wide(k, WIDE) * by_class, k < classes,
                r0, r1, r2, r3, u0, u1, u2, u3, R,
                c0, c1, c2, c3, v0, v1, v2, v3, C,
            )  # fmt: skip
            p = tl.exp2(value - scaled)
            by_p = tl.load(derivatives + 4 * classes + k)
            mean += p * by_p + tl.load(derivatives + 5 * classes + k)
            own = tl.where(k == label, p, own)
        pull += own * tl.load(derivatives + 2 * classes + label, mask=valid, other=0.0)
        tl.store(b + pixel, tl.where(valid, pull + mean, 0.0), mask=inside)
    tl.store(a + pixel, tl.where(valid, pull, 0.0), mask=inside)


@triton.jit(
    do_not_specialize=[
        "classes", "w", "height", "width", "by_image", "by_class", "by_row", "by_column",
        "to_image", "to_class", "to_row", "to_column",
    ]
)  # fmt: skip
def write_gradient(
    x, target, row_indices, row_weights, row_users, column_indices, column_weights, column_users,
    lse, derivatives, a, b, grad,
    classes, w, height, width, by_image, by_class, by_row, by_column,
    to_image, to_class, to_row, to_column,
    R: tl.constexpr, C: tl.constexpr, B: tl.constexpr, CELLS: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradient of B classes at CELLS cells of a row; grid (blocks x cells, images).

    A pixel that uses a cell has its other tap, if any, right beside it: the cell is its first tap
    or its second. So the logits of three neighbouring cells, mixed over the rows, give those of all
    pixels of a row that use the cell.
    """
    blocks = tl.cdiv(classes, B)
    part = tl.program_id(0) // blocks
    cell_row = part // tl.cdiv(w, CELLS)
    k = (tl.program_id(0) % blocks) * B + tl.arange(0, B)[:, None]
    some = k < classes
    place = (part % tl.cdiv(w, CELLS)) * CELLS + tl.arange(0, CELLS)
    inside = place < w
    cell = tl.minimum(place, w - 1)
    at = wide(cell, WIDE)[None, :]
    before = tl.maximum(at - 1, 0) * by_column
    after = tl.minimum(at + 1, w - 1) * by_column
    image = tl.program_id(1).to(tl.int64)
    x += image * by_image + wide(k, WIDE) * by_class
    if DENSE:
        by_p = tl.load(derivatives + 4 * classes + k, mask=some, other=0.0)
        by_log_p = tl.load(derivatives + 5 * classes + k, mask=some, other=0.0)
    start = tl.load(column_users + 2 * cell)
    end = tl.load(column_users + 2 * cell + 1)
    most = tl.max(end - start, 0)
    total = tl.zeros((B, CELLS), tl.float32)
    first_row = tl.load(row_users + 2 * cell_row)
    for e in range(0, tl.load(row_users + 2 * cell_row + 1) - first_row):
        i = first_row + e
        r0 = tl.load(row_indices + i * R)
        u0 = tl.load(row_weights + i * R)
        own_row = tl.where(r0 == cell_row, u0, 0.0)
        u0 = tl.maximum(u0, TRACE) * LOG2_E
        row = wide(r0, WIDE) * by_row
        left = u0 * cells(x + (row + before), some)
        middle = u0 * cells(x + (row + at * by_column), some)
        right = u0 * cells(x + (row + after), some)
        if R > 1:
            r1 = tl.load(row_indices + i * R + 1)
            u1 = tl.load(row_weights + i * R + 1)
            own_row += tl.where(r1 == cell_row, u1, 0.0)
            u1 = tl.maximum(u1, TRACE) * LOG2_E
            row = wide(r1, WIDE) * by_row
            left += u1 * cells(x + (row + before), some)
            middle += u1 * cells(x + (row + at * by_column), some)
            right += u1 * cells(x + (row + after), some)
        # A pixel without weight there must not get 0 * infinity.
        left = tl.maximum(left, LOWEST)
        middle = tl.maximum(middle, LOWEST)
        right = tl.maximum(right, LOWEST)
        line = image * height * width + wide(i, WIDE) * width
        part_sum = tl.zeros((B, CELLS), tl.float32)
        for d in range(0, most):
            j = start + d
            used = j < end
            j = tl.minimum(j, width - 1)
            is_first = tl.load(column_indices + j * C) == cell
            second = 0.0
            if C > 1:
                second = tl.load(column_weights + j * C + 1)
            own = tl.where(is_first, 1.0 - second, second)
            to_left = tl.where(is_first, 0.0, 1.0 - second)
            to_right = tl.where(is_first, second, 0.0)
            value = to_left[None, :] * left + own[None, :] * middle + to_right[None, :] * right
            label = tl.load(target + line + j).to(tl.int32)
            out = tl.load(lse + line + j)
            first = tl.load(a + line + j)
            p = tl.exp2(value - (out * LOG2_E)[None, :])
            if DENSE:
                pull = p * (by_p - tl.load(b + line + j)[None, :])
                pull += tl.where((out != float("inf"))[None, :], by_log_p, 0.0)
            else:
                pull = -p * first[None, :]
            pull += tl.where(k == label[None, :], first[None, :], 0.0)
            part_sum += tl.where(used, own, 0.0)[None, :] * pull
        total += own_row * part_sum
    grad += image * to_image + wide(k, WIDE) * to_class
    grad += wide(cell_row, WIDE) * to_row + at * to_column
    tl.store(grad, total.to(grad.dtype.element_ty), mask=some & inside[None, :])
