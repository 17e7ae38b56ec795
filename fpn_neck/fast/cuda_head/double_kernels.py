"""The kernels of `fpn_neck.fast.cuda_head.double`: a map plus a coarser one, upsampled.

A program takes some columns of one row of an image and some channels, as those of
`fpn_neck.fast.cuda.merge_kernels`. Maps are dense and of one memory format: NHWC if LAST, else
NCHW. A map (h, w) becomes (2h, 2w) and then (height, width), both bilinear, with
align_corners=False. With DOUBLE these are the same size, and the second step does nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fpn_neck.fast.cuda.merge_kernels import offsets
from fpn_neck.fast.cuda_head.norm_kernels import normalised


@triton.jit
def doubled_taps(target, length):
    """The first of two neighbours that a number of the doubled axis comes from; the other's weight.

    The source is (target + 0.5) / 2 - 0.5, at least 0: a quarter before or after a number.
    """
    first = tl.maximum(target - 1, 0) // 2
    second = tl.where(target % 2 == 1, 0.25, 0.75)
    return first, tl.where((target == 0) | (first >= length - 1), 0.0, second)


@triton.jit
def taps(target, scale, length, DOUBLE: tl.constexpr):
    """The first of three neighbours that a target is made of, and the weights of all three.

    ``scale`` is doubled length / target length. The second step's position is computed in float32,
    as torch does (``aten/src/ATen/native/UpSample.h``, ``area_pixel_compute_source_index``).
    """
    if DOUBLE:
        first, second = doubled_taps(target, length)
        return first, 1.0 - second, second, second * 0.0
    place = tl.maximum((target.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(place.to(tl.int32), 2 * length - 1)
    part = tl.where(before < 2 * length - 1, place - before.to(tl.float32), 0.0)
    first, second = doubled_taps(before, length)
    later, later_second = doubled_taps(tl.minimum(before + 1, 2 * length - 1), length)
    same = later == first  # else it is the next
    second, later_second = second * (1.0 - part), later_second * part
    zeroth, later_zeroth = 1.0 - part - second, part - later_second
    return (
        first,
        zeroth + tl.where(same, later_zeroth, 0.0),
        second + tl.where(same, later_second, later_zeroth),
        tl.where(same, 0.0, later_second),
    )


@triton.jit(do_not_specialize=["height", "h", "by_row", "by_column"])
def add_doubled(
    x, mean, rstd, weight, bias, other, out,
    height, width, h, w, by_row, by_column,
    C: tl.constexpr, WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
    LAST: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = x + upsampled other; with groups of WIDTH channels, not 0, relu(group_norm(x)) + it.

    Grid (N * height, blocks of columns, blocks of channels).
    """
    line = tl.program_id(0)
    image, row = (line // height).to(tl.int64), line % height
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (column < width)[:, None] & (channel < C)[None, :]
    at = offsets(image, row, column, channel, height, width, C, LAST)
    if WIDTH > 0:
        _, value = normalised(x, at, inside, mean, rstd, weight, bias, image, channel, C, WIDTH)
        value = tl.maximum(value, 0.0)
    else:
        value = tl.load(x + at, inside, other=0.0).to(tl.float32)
    top, u0, u1, u2 = taps(row, by_row, h, DOUBLE)
    left, v0, v1, v2 = taps(column, by_column, w, DOUBLE)
    for i in tl.static_range(2 if DOUBLE else 3):
        u = u0 if i == 0 else (u1 if i == 1 else u2)
        for j in tl.static_range(2 if DOUBLE else 3):
            v = (v0 if j == 0 else (v1 if j == 1 else v2)) * u
            # What has no weight is not read: it may be outside, or infinite.
            used = (v != 0.0)[:, None] & inside
            source = offsets(image, top + i, left + j, channel, h, w, C, LAST)
            value += v[:, None] * tl.load(other + source, used, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), inside)


@triton.jit
def weight_of(source, target, end, scale, length, DOUBLE: tl.constexpr):
    """What a source gives to a target; 0 outside of the ``end`` targets."""
    first, zeroth, second, third = taps(tl.maximum(target, 0), scale, length, DOUBLE)
    place = source - first
    value = tl.where(place == 1, second, tl.where(place == 2, third, 0.0))
    value = tl.where(place == 0, zeroth, value)
    return tl.where((target >= 0) & (target < end), value, 0.0)


@triton.jit(do_not_specialize=["height", "h", "by_row", "by_column", "rows", "columns"])
def sum_doubled(
    grad, out, height, width, h, w, by_row, by_column, rows, columns,
    C: tl.constexpr, DOUBLE: tl.constexpr, LAST: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of `add_doubled` by the coarser map: each number gathers those that it is a part of.

    Grid (N * h, blocks of columns, blocks of channels).

    Args:
        grad: (N, C, height, width). out: (N, C, h, w).
        rows, columns: as many as a number may be a part of, or more; not read if DOUBLE.
    """
    line = tl.program_id(0)
    image, row = (line // h).to(tl.int64), line % h
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (column < w)[:, None] & (channel < C)[None, :]
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if DOUBLE:
        for i in tl.static_range(4):
            y = 2 * row - 1 + i
            u = weight_of(row, y, height, by_row, h, DOUBLE)
            for j in tl.static_range(4):
                x = 2 * column - 1 + j
                v = u * weight_of(column, x, width, by_column, w, DOUBLE)
                at = offsets(image, y, x, channel, height, width, C, LAST)
                part = tl.load(grad + at, (v != 0.0)[:, None] & inside, other=0.0)
                total += v[:, None] * part.to(tl.float32)
    else:
        # Between 2 * row - 2 and 2 * row + 3 of the doubled axis, without the ends.
        top = ((4 * row - 3) * height - 2 * h) // (4 * h)
        left = ((4 * column - 3) * width - 2 * w) // (4 * w)
        for i in range(rows):
            u = weight_of(row, top + i, height, by_row, h, DOUBLE)
            if u != 0.0:
                for j in range(columns):
                    v = u * weight_of(column, left + j, width, by_column, w, DOUBLE)
                    at = offsets(image, top + i, left + j, channel, height, width, C, LAST)
                    part = tl.load(grad + at, (v != 0.0)[:, None] & inside, other=0.0)
                    total += v[:, None] * part.to(tl.float32)
    to = offsets(image, row, column, channel, h, w, C, LAST)
    tl.store(out + to, total.to(out.dtype.element_ty), inside)
