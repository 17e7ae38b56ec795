"""One step down the pyramid: lateral + its bias + the upsampled level above, and the gradients.

torch makes of it a pass for the bias, one for the upsampled map and one for the addition. Here it
is one kernel. All is computed in float32 and rounded once.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fpn_neck.fast.cuda.launch import Launch
from fpn_neck.fast.cuda.layout import power_of_two
from fpn_neck.utils.sizes import ceil_div

# A bias as channels: three numbers of 8 bits sum up to any float32, and no product rounds them,
# neither in bfloat16 nor in TF32. Matrix products of GPUs want channels by the eight.
TERMS, MORE_CHANNELS = 3, 8


def add_upsampled(
    lateral: Tensor,
    bias: Tensor,
    above: Tensor,
    *,
    with_ones: bool = False,
    in_place: bool = True,
) -> Tensor:
    """lateral + bias + nearest upsampling of ``above`` to its size.

    Args:
        lateral: (N, C, H, W), float32, float16 or bfloat16, dense in NCHW or NHWC.
        bias: (C,), of any float dtype.
        above: (N, C, h, w) of any size, of the lateral's dtype.
        with_ones: for `widened`.
        in_place: write over the lateral.

    Returns:
        The lateral or a new map, see `new_map`; with ones always a new map, in whose memory further
        channels follow, 8 of them, 1, 1, 1, 0, 0, 0, 0, 0.
    """
    last = is_last(lateral)
    if not above.is_contiguous(memory_format=dense_format(last)):
        wide = widened(above)
        if wide is None or is_last(wide) != last:
            wide = above.contiguous(memory_format=dense_format(last))
        above = wide
    images, channels, *size = lateral.shape
    out = lateral
    if with_ones or not in_place:
        more = MORE_CHANNELS if with_ones else 0
        out = new_map(lateral, (images, channels + more, *size))
    merge_launch(lateral, bias.contiguous(), above, out).run()
    return out[:, :channels] if with_ones else out


def widened(x: Tensor) -> Tensor | None:
    """The whole memory of what `add_upsampled` gives with ones, (N, C + 8, H, W); else None."""
    images, channels, height, width = x.shape
    channels += MORE_CHANNELS
    step = channels * height * width
    for strides in (step, 1, width * channels, channels), (step, height * width, width, 1):
        if x.stride() == strides:
            return x.as_strided((images, channels, height, width), strides)
    return None


def merge_launch(lateral: Tensor, bias: Tensor, above: Tensor, out: Tensor) -> Launch:
    """What fills ``out``, which may be the lateral; both maps may have further channels."""
    from fpn_neck.fast.cuda.merge_kernels import add_upsampled as kernel

    shapes = lateral.shape, above.shape, out.shape[1]
    grid, sizes, constants = _merge_plan(*shapes, is_last(lateral))
    return Launch(kernel, grid, (lateral, bias, above, out, *sizes), constants)


@lru_cache(maxsize=1024)
def _merge_plan(
    shape: tuple[int, ...], of_above: tuple[int, ...], out_channels: int, last: bool
) -> tuple[tuple[int, int, int], tuple[int | float, ...], dict[str, int | bool]]:
    """Grid, sizes and constants; a small neck's time is Python's, of which this would be a part."""
    images, channels, height, width = shape
    h, w = of_above[-2:]
    columns, block = tile(last, width, channels)
    constants = {
        "C": channels, "ONES": out_channels - channels, "ABOVE": of_above[1],
        "TERMS": TERMS, "LAST": last, "COLUMNS": columns, "CHANNELS": block,
    }  # fmt: skip
    grid = images * height, ceil_div(width, columns), ceil_div(channels, block)
    return grid, (height, width, h, w, h / height, w / width), constants


def sum_targets(
    grad: Tensor, size: tuple[int, int], *, wants_sums: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of `add_upsampled` by ``above`` and ``bias``, in one pass; deterministic.

    Args:
        grad: (N, C, H, W), of any strides. size: h and w of ``above``.
        wants_sums: whether the bias needs its gradient.

    Returns:
        (N, C, h, w), of the gradient's dtype, and (C,) in float32 or None.
    """
    last = is_last(grad)
    grad = grad.contiguous(memory_format=dense_format(last))
    out = new_map(grad, (*grad.shape[:2], *size))
    blocks = ceil_div(size[1], tile(last, size[1], grad.shape[1])[0])
    sums = None
    if wants_sums:
        shape = len(grad) * size[0] * blocks, grad.shape[1]
        sums = grad.new_empty(shape, dtype=torch.float32)
    sum_launch(grad, out, sums).run()
    return out, None if sums is None else sums.sum(0)


def sum_launch(grad: Tensor, out: Tensor, sums: Tensor | None) -> Launch:
    """What fills ``out``, and ``sums`` with the sums of each program (programs, C)."""
    from fpn_neck.fast.cuda.merge_kernels import sum_targets as kernel

    images, channels, height, width = grad.shape
    h, w = out.shape[-2:]
    last = is_last(grad)
    columns, block = tile(last, w, channels)
    return Launch(
        kernel,
        (images * h, ceil_div(w, columns), ceil_div(channels, block)),
        (
            grad, out, out if sums is None else sums, height, width, h, w,
            h / height, w / width, ceil_div(height, h) + 2, ceil_div(width, w) + 2,
        ),
        {
            "C": channels, "DOUBLE": (height, width) == (2 * h, 2 * w), "SUMS": sums is not None,
            "LAST": last, "COLUMNS": columns, "CHANNELS": block,
        },
    )  # fmt: skip


def bias_as_channels(weight: Tensor, bias: Tensor, like: Tensor) -> Tensor:
    """Weight of a convolution of a map with ones: it adds the bias without a pass of its own.

    The bias is the centre tap of the channels of ones. The centre never leaves the map, so the sum
    is exact at the borders too.

    Args:
        weight: (O, C, 3, 3), of any strides. bias: (O,). Both of any float dtype.
        like: the map that it is for.

    Returns:
        (O, C + 8, 3, 3), of that map's dtype and memory format.
    """
    shape = weight.shape[0], weight.shape[1] + MORE_CHANNELS, 3, 3
    out = new_map(like, shape)
    widen_launch(weight, bias.contiguous(), out).run()
    return out


def widen_launch(weight: Tensor, bias: Tensor, out: Tensor) -> Launch:
    """What fills ``out``."""
    from fpn_neck.fast.cuda.merge_kernels import widen_weight

    channels = weight.shape[1]
    sizes = {"C": channels, "ONES": MORE_CHANNELS, "LAST": is_last(out)}
    return Launch(
        widen_weight,
        (len(weight), 9),
        (weight, bias, out, *weight.stride()),
        sizes | {"CHANNELS": power_of_two(out.shape[1])},
    )


def is_last(x: Tensor) -> bool:
    """Whether a map is walked through in NHWC."""
    return x.is_contiguous(memory_format=torch.channels_last)


def dense_format(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def new_map(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """In NHWC if ``like`` is, else in NCHW."""
    memory_format = dense_format(is_last(like))
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def tile(last: bool, width: int, channels: int) -> tuple[int, int]:
    """Columns and channels of a program, at most 4096 numbers; the inner ones are neighbours."""
    if last:
        return 16, min(256, power_of_two(channels))
    return min(128, power_of_two(width)), min(16, power_of_two(channels))
