"""The kernels of `fpn_neck.fast.cuda_head.norm`: group norm and ReLU of maps in NHWC.

A map is read as (N, P, C), P pixels. A chunk is some pixels of one photo. ``mean`` and ``rstd``
are (N, groups), float32; a group has WIDTH channels next to each other.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile(start, pixels, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Offsets in a photo, and which of them exist, of ROWS pixels and all channels."""
    pixel, channel = start + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < C)[None, :]
    return pixel.to(tl.int64)[:, None] * C + channel[None, :], inside


@triton.jit
def normalised(
    x, at, inside, mean, rstd, weight, bias, photo, channel, C: tl.constexpr, WIDTH: tl.constexpr
):
    """The map without mean and deviation, and what the affine part makes of it, before ReLU."""
    group, known = photo * (C // WIDTH) + channel // WIDTH, channel < C
    value = tl.load(x + at, inside, other=0.0).to(tl.float32)
    value -= tl.load(mean + group, known, other=0.0)[None, :]
    value *= tl.load(rstd + group, known, other=0.0)[None, :]
    scale = tl.load(weight + channel, known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, known, other=0.0).to(tl.float32)
    return value, value * scale[None, :] + shift[None, :]


@triton.jit(do_not_specialize=["pixels"])
def chunk_moments(
    x, moments, pixels,
    C: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean of each channel of a chunk, and the sum of squares around it; grid (chunks, N).

    moments: (N, chunks, 2, C). Sums of plain squares would lose the small variance of large values.
    """
    photo, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * CHUNK
    x += photo * pixels * C
    count = tl.minimum(pixels - start, CHUNK).to(tl.float32)
    total = tl.zeros((CHANNELS,), tl.float32)
    for i in range(0, CHUNK, ROWS):
        at, inside = tile(start + i, pixels, C, ROWS, CHANNELS)
        total += tl.sum(tl.load(x + at, inside, other=0.0).to(tl.float32), 0)
    mean = total / count
    squares = tl.zeros((CHANNELS,), tl.float32)
    for i in range(0, CHUNK, ROWS):
        at, inside = tile(start + i, pixels, C, ROWS, CHANNELS)
        apart = tl.load(x + at, inside, other=0.0).to(tl.float32) - mean[None, :]
        squares += tl.sum(tl.where(inside, apart * apart, 0.0), 0)
    channel = tl.arange(0, CHANNELS)
    moments += (photo * tl.num_programs(0) + tl.program_id(0)) * 2 * C + channel
    tl.store(moments, mean, channel < C)
    tl.store(moments + C, squares, channel < C)


@triton.jit(do_not_specialize=["pixels", "chunks", "eps"])
def group_moments(
    moments, mean, rstd, pixels, chunks, eps,
    C: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of a group, from those of its chunks; grid (groups, N)."""
    group, photo = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, LANES)
    moments += photo * chunks * 2 * C + group * WIDTH
    total = tl.zeros((BLOCK, LANES), tl.float32)
    for first in range(0, chunks, BLOCK):
        chunk = first + tl.arange(0, BLOCK)
        some = (chunk < chunks)[:, None] & (lane < WIDTH)[None, :]
        count = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(tl.float32)[:, None]
        total += count * tl.load(
            moments + (chunk * 2 * C)[:, None] + lane[None, :], some, other=0.0
        )
    numbers = pixels.to(tl.float32) * WIDTH
    centre = tl.sum(total) / numbers
    squares = tl.zeros((BLOCK, LANES), tl.float32)
    for first in range(0, chunks, BLOCK):
        chunk = first + tl.arange(0, BLOCK)
        some = (chunk < chunks)[:, None] & (lane < WIDTH)[None, :]
        count = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(tl.float32)[:, None]
        at = (chunk * 2 * C)[:, None] + lane[None, :]
        apart = tl.load(moments + at, some, other=0.0) - centre
        inner = tl.load(moments + at + C, some, other=0.0)
        squares += tl.where(some, inner + count * apart * apart, 0.0)
    place = photo * tl.num_programs(0) + group
    tl.store(mean + place, centre)
    tl.store(rstd + place, 1.0 / tl.sqrt(tl.sum(squares) / numbers + eps))


@triton.jit(do_not_specialize=["pixels"])
def write_norm_relu(
    x, mean, rstd, weight, bias, other, out, pixels,
    C: tl.constexpr, WIDTH: tl.constexpr, ADD: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = relu(group_norm(x)), plus other if ADD; grid (blocks of pixels, N)."""
    photo = tl.program_id(1).to(tl.int64)
    at, inside = tile(tl.program_id(0) * ROWS, pixels, C, ROWS, CHANNELS)
    at += photo * pixels * C
    channel = tl.arange(0, CHANNELS)
    _, value = normalised(x, at, inside, mean, rstd, weight, bias, photo, channel, C, WIDTH)
    value = tl.maximum(value, 0.0)
    if ADD:
        value += tl.load(other + at, inside, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["pixels"])
def chunk_gradients(
    grad, x, mean, rstd, weight, bias, sums, pixels,
    C: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums (N, chunks, 2, C) of the gradient after ReLU, and of it times the normalised map."""
    photo, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * CHUNK
    plain = tl.zeros((CHANNELS,), tl.float32)
    weighted = tl.zeros((CHANNELS,), tl.float32)
    channel = tl.arange(0, CHANNELS)
    for i in range(0, CHUNK, ROWS):
        at, inside = tile(start + i, pixels, C, ROWS, CHANNELS)
        at += photo * pixels * C
        unit, value = normalised(x, at, inside, mean, rstd, weight, bias, photo, channel, C, WIDTH)
        passed = inside & (value > 0)
        part = tl.load(grad + at, passed, other=0.0).to(tl.float32)
        plain += tl.sum(part, 0)
        weighted += tl.sum(part * unit, 0)
    sums += (photo * tl.num_programs(0) + tl.program_id(0)) * 2 * C + channel
    tl.store(sums, plain, channel < C)
    tl.store(sums + C, weighted, channel < C)


@triton.jit(do_not_specialize=["pixels"])
def write_norm_gradient(
    grad, x, mean, rstd, weight, bias, shares, out, pixels,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient by x, from ``shares`` (2, N, groups): the means over a group of g and g * unit.

    g is the gradient by the normalised map. Source: Wu and He, Group Normalization, ECCV 2018; the
    derivative is that of layer norm over a group.
    """
    photo = tl.program_id(1).to(tl.int64)
    groups = C // WIDTH
    at, inside = tile(tl.program_id(0) * ROWS, pixels, C, ROWS, CHANNELS)
    at += photo * pixels * C
    channel = tl.arange(0, CHANNELS)
    unit, value = normalised(x, at, inside, mean, rstd, weight, bias, photo, channel, C, WIDTH)
    known, group = channel < C, photo * groups + channel // WIDTH
    by_unit = tl.load(grad + at, inside & (value > 0), other=0.0).to(tl.float32)
    by_unit *= tl.load(weight + channel, known, other=0.0).to(tl.float32)[None, :]
    by_unit -= tl.load(shares + group, known, other=0.0)[None, :]
    shares += tl.num_programs(1) * groups
    by_unit -= unit * tl.load(shares + group, known, other=0.0)[None, :]
    by_unit *= tl.load(rstd + group, known, other=0.0)[None, :]
    tl.store(out + at, by_unit.to(out.dtype.element_ty), inside)
