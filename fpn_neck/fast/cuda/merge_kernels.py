"""The kernels of `fpn_neck.fast.cuda.merge`.

A program takes some columns of one row of an image and some channels, a tile (COLUMNS, CHANNELS).
All maps are dense and of one memory format: NHWC if LAST, else NCHW. An image may have more than
2**31 numbers; a row of it may not.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nearest(target, scale, length):
    """Index of the source that nearest upsampling copies to ``target``, by torch's own rule.

    torch computes it in float32 (``aten/src/ATen/native/UpSample.h``,
    ``nearest_idx``), and so does this: there is no other index at any size.
    """
    return tl.minimum((target.to(tl.float32) * scale).to(tl.int32), length - 1)


@triton.jit
def offsets(image, row, column, channel, height, width, C: tl.constexpr, LAST: tl.constexpr):
    """Of the numbers (columns, channels) of a row, in a dense map (N, C, height, width)."""
    if LAST:
        start = (image * height + row) * width * C
        return start + (column[:, None] * C + channel[None, :])
    start = (image * C * height + row) * width
    return start + (channel[None, :].to(tl.int64) * (height * width) + column[:, None])


# Of the sizes, only those that a vector's address depends on may be compiled in, if they are 1 or
# a multiple of 16: at most three kernels of each layout and dtype.
@triton.jit(do_not_specialize=["height", "h", "w", "by_row", "by_column"])
def add_upsampled(
    lateral, bias, above, out,
    height, width, h, w, by_row, by_column,
    C: tl.constexpr, ONES: tl.constexpr, ABOVE: tl.constexpr, TERMS: tl.constexpr,
    LAST: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = lateral + bias + nearest upsampling of above; out may be the lateral.

    With ONES, out has so many further channels: TERMS times 1, then 0. ABOVE is the number of the
    channels in the memory of above. Grid (N * height, blocks of columns, blocks of channels).
    """
    line = tl.program_id(0)
    image, row = (line // height).to(tl.int64), line % height
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (column < width)[:, None] & (channel < C)[None, :]
    own = offsets(image, row, column, channel, height, width, C, LAST)
    sources = nearest(column, by_column, w)
    others = offsets(image, nearest(row, by_row, h), sources, channel, h, w, ABOVE, LAST)
    value = tl.load(lateral + own, inside).to(tl.float32)
    value += tl.load(bias + channel, channel < C).to(tl.float32)[None, :]
    value += tl.load(above + others, inside).to(tl.float32)
    to = offsets(image, row, column, channel, height, width, C + ONES, LAST)
    tl.store(out + to, value.to(out.dtype.element_ty), inside)
    if ONES > 0:
        further = tl.arange(0, ONES)
        to = offsets(image, row, column, C + further, height, width, C + ONES, LAST)
        ones = tl.where(further < TERMS, 1.0, 0.0).to(out.dtype.element_ty)
        ones = tl.broadcast_to(ones[None, :], to.shape)
        tl.store(out + to, ones, (column < width)[:, None] & (tl.program_id(2) == 0))


@triton.jit(do_not_specialize=["height", "h", "by_row", "by_column", "rows", "columns"])
def sum_targets(
    grad, out, sums,
    height, width, h, w, by_row, by_column, rows, columns,
    C: tl.constexpr, DOUBLE: tl.constexpr, SUMS: tl.constexpr, LAST: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of the level above: a number's is the sum over the numbers that it became.

    A gather, so that no two programs write to one place. Grid (N * h, blocks of columns, blocks of
    channels).

    Args:
        grad: (N, C, height, width). out: (N, C, h, w).
        sums: (N * h * blocks of columns, C), the sums of each program, if SUMS.
        rows, columns: the most rows and columns that a number may have become, and 2 more.
    """
    line = tl.program_id(0)
    image, row = (line // h).to(tl.int64), line % h
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    some = (channel < C)[None, :]
    inside = (column < w)[:, None] & some
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if DOUBLE:
        for i in tl.static_range(2):
            for j in tl.static_range(2):
                at = offsets(image, 2 * row + i, 2 * column + j, channel, height, width, C, LAST)
                total += tl.load(grad + at, inside, other=0.0).to(tl.float32)
    else:
        # In exact numbers from target = ceil(source * height / h) on; rounding may move it by one.
        first_row = tl.cdiv(row * height, h) - 1
        first = tl.cdiv(column * width, w) - 1
        for i in range(rows):
            y = first_row + i
            in_row = (y >= 0) & (y < height) & (nearest(y, by_row, h) == row)
            for j in range(columns):
                x = first + j
                used = (x >= 0) & (x < width) & (nearest(x, by_column, w) == column) & in_row
                at = offsets(image, y, x, channel, height, width, C, LAST)
                total += tl.load(grad + at, used[:, None] & inside, other=0.0).to(tl.float32)
    to = offsets(image, row, column, channel, h, w, C, LAST)
    tl.store(out + to, total.to(out.dtype.element_ty), inside)
    if SUMS:
        block = line.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
        total = tl.where(inside, total, 0.0)
        tl.store(sums + block * C + channel, tl.sum(total, 0), channel < C)


@triton.jit(do_not_specialize=["by_output", "by_input", "by_row", "by_column"])
def widen_weight(
    weight, bias, out, by_output, by_input, by_row, by_column,
    C: tl.constexpr, ONES: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out (O, C + ONES, 3, 3), in NHWC if LAST: the weight (O, C, 3, 3), then the bias.

    Its terms are centre taps of the first three further channels, 8 bits each. Grid (O, 9).
    """
    output, tap = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    at = output * by_output + channel * by_input + (tap // 3) * by_row + (tap % 3) * by_column
    value = tl.load(weight + at, channel < C, other=0.0).to(tl.float32)
    rest = tl.load(bias + output).to(tl.float32)
    for term in tl.static_range(3):
        part = rest.to(tl.bfloat16).to(tl.float32)
        value = tl.where((tap == 4) & (channel == C + term), part, value)
        rest = tl.where(part == rest, 0.0, rest - part)  # infinity minus infinity would be NaN
    if LAST:
        to = (output * 9 + tap) * (C + ONES) + channel
    else:
        to = (output * (C + ONES) + channel) * 9 + tap
    tl.store(out + to, value.to(out.dtype.element_ty), channel < C + ONES)
