"""The kernels of the neck and the head as operators of torch, ``torch.ops.fpn_neck.*``.

torch.compile records them: it neither breaks its graph nor looks inside. On a CPU, and for float64,
they compute by torch's own operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.fast.cuda.merge import add_upsampled, new_map, sum_targets
from fpn_neck.fast.cuda_head import double
from fpn_neck.fast.cuda_head import norm as cuda_norm
from fpn_neck.fast.cuda_head.double import Addend
from fpn_neck.fast.eligible import takes_triton
from fpn_neck.fast.memory_format import compute_dtype
from fpn_neck.utils.operators import operator

Conv = tuple[Tensor, Tensor]  # weight and bias


def recorded_pyramid(
    maps: Sequence[Tensor], laterals: Sequence[Conv], smooths: Sequence[Conv]
) -> tuple[list[Tensor], Tensor]:
    """As `fpn_neck.fast.cuda_pyramid.cuda_pyramid`, for torch.compile."""
    merged = [F.conv2d(maps[-1], *laterals[-1])]
    for x, (weight, bias) in reversed(list(zip(maps[:-1], laterals[:-1], strict=True))):
        merged.insert(0, merge_level(F.conv2d(x, weight), bias, merged[0]))
    coarsest = merged[-1]
    if not smooths:
        return merged, coarsest
    pairs = zip(merged, smooths, strict=True)
    return [F.conv2d(x, weight, bias, padding=1) for x, (weight, bias) in pairs], coarsest


@operator("merge_level", "(Tensor lateral, Tensor bias, Tensor above) -> Tensor")
def merge_level(lateral: Tensor, bias: Tensor, above: Tensor) -> Tensor:
    """lateral + bias + nearest upsampling of ``above`` to its size; a new map, differentiable.

    Args:
        lateral: (N, C, H, W), floating point.
        bias: (C,). above: (N, C, h, w).
    """
    if not takes_triton(lateral):
        up = F.interpolate(above, size=lateral.shape[-2:]) + bias.to(above.dtype)[:, None, None]
        return new_map(lateral, lateral.shape).copy_(lateral + up)
    return add_upsampled(_dense(lateral), bias, above, in_place=False)


@torch.library.register_fake(merge_level)
def _(lateral: Tensor, bias: Tensor, above: Tensor) -> Tensor:
    return new_map(lateral, lateral.shape)


@operator("merge_level_backward", "(Tensor grad, SymInt height, SymInt width) -> (Tensor, Tensor)")
def merge_level_backward(grad: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Gradients of `merge_level` by ``above``, of that size, and by the bias, in float32 or 64."""
    if takes_triton(grad):
        above, sums = sum_targets(grad, (height, width), wants_sums=True)
        assert sums is not None
        return above, sums
    shape = *grad.shape[:2], height, width
    above = torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[-2:], shape)
    return new_map(grad, shape).copy_(above), grad.sum((0, 2, 3), dtype=compute_dtype(grad.dtype))


@torch.library.register_fake(merge_level_backward)
def _(grad: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    shape = *grad.shape[:2], height, width
    return new_map(grad, shape), grad.new_empty(grad.shape[1], dtype=compute_dtype(grad.dtype))


def _keep_merged(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, bias, above = inputs
    ctx.bias_dtype, ctx.above_size = bias.dtype, above.shape[-2:]


def _merge_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    above, sums = merge_level_backward(grad, *ctx.above_size)
    return grad, sums.to(ctx.bias_dtype), above


def _keep_size(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.size, ctx.dtype = inputs[0].shape[-2:], inputs[0].dtype


def _again(ctx: Any, above: Tensor, sums: Tensor) -> tuple[Tensor, None, None]:
    """`merge_level` is linear: its gradient's gradient is the upsampling again."""
    up = F.interpolate(above, size=ctx.size)
    return up + sums.to(ctx.dtype)[:, None, None], None, None


torch.library.register_autograd(merge_level, _merge_backward, setup_context=_keep_merged)
torch.library.register_autograd(merge_level_backward, _again, setup_context=_keep_size)


@operator(
    "group_norm_relu",
    "(Tensor x, SymInt groups, Tensor weight, Tensor bias, float eps, Tensor? other,"
    " bool doubled) -> (Tensor, Tensor, Tensor)",
)
def group_norm_relu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    other: Tensor | None,
    doubled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """relu(group_norm(x)) + other, differentiable; each group's mean and 1 / deviation (N, groups).

    Args:
        x: (N, C, H, W), floating point, dense in NHWC. weight, bias: (C,).
        other: of x's dtype and shape; or (N, C, h, w) if ``doubled``, see `Addend`.
    """
    if takes_triton(x):
        return cuda_norm.normalise(x, groups, weight, bias, eps, other, doubled)
    wide = x.to(compute_dtype(x.dtype)).contiguous()
    sizes = len(x), x.shape[1], x.shape[2] * x.shape[3], groups
    affine = weight.to(wide), bias.to(wide)
    out, mean, rstd = torch.ops.aten.native_group_norm(wide, *affine, *sizes, eps)
    out = out.relu()
    if other is not None:
        out = out + Addend(other.to(out), doubled, align_corners=False).resized(x.shape[-2:])
    return torch.empty_like(x).copy_(out), mean, rstd


@torch.library.register_fake(group_norm_relu)
def _(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    other: Tensor | None,
    doubled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    moments = [x.new_empty((x.shape[0], groups), dtype=compute_dtype(x.dtype)) for _ in range(2)]
    return torch.empty_like(x), moments[0], moments[1]


@operator("add_doubled_backward", "(Tensor grad, SymInt height, SymInt width) -> Tensor")
def add_doubled_backward(grad: Tensor, height: int, width: int) -> Tensor:
    """Gradient of a sum by an addend of that size that was doubled, see `Addend`."""
    if takes_triton(grad):
        return double.sum_doubled(grad, (height, width))
    found = double.plain_gradient(grad, (height, width))
    return new_map(grad, found.shape).copy_(found)


@torch.library.register_fake(add_doubled_backward)
def _(grad: Tensor, height: int, width: int) -> Tensor:
    return new_map(grad, (*grad.shape[:2], height, width))


@operator(
    "group_norm_relu_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd)"
    " -> (Tensor, Tensor, Tensor)",
)
def group_norm_relu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `group_norm_relu` by x, weight and bias."""
    if takes_triton(x):
        return cuda_norm.gradients(grad, x, weight, bias, mean, rstd)
    wide = x.to(mean.dtype).contiguous()
    photos, channels, groups = *x.shape[:2], mean.shape[1]
    per_channel = (
        m.repeat_interleave(channels // groups, 1)[..., None, None] for m in (mean, rstd)
    )
    centre, scale = per_channel
    scaled = (wide - centre) * scale * weight.to(wide)[:, None, None]
    passed = grad.to(wide) * (scaled + bias.to(wide)[:, None, None] > 0)
    sizes = photos, channels, x.shape[2] * x.shape[3], groups
    found = torch.ops.aten.native_group_norm_backward(
        passed.contiguous(), wide, mean, rstd, weight.to(wide), *sizes, [True, True, True]
    )
    return torch.empty_like(x).copy_(found[0]), found[1].to(weight.dtype), found[2].to(bias.dtype)


@torch.library.register_fake(group_norm_relu_backward)
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep_norm(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    x, _, weight, bias, _, other, doubled = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.size = other.shape[-2:] if other is not None and doubled else None
    ctx.mark_non_differentiable(*output[1:])


def _norm_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    by_x, by_weight, by_bias = group_norm_relu_backward(grad, *ctx.saved_tensors)
    by_other = None
    if ctx.needs_input_grad[5]:
        by_other = grad if ctx.size is None else add_doubled_backward(grad, *ctx.size)
    return by_x, None, by_weight, by_bias, None, by_other, None


def _keep_target(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.target = inputs[0].shape[-2:]


def _double_again(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return Addend(grad, doubled=True, align_corners=False).resized(ctx.target), None, None


def _refuse(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "a compiled group norm is differentiable once; its gradient was differentiated (twice in "
        "all). Call the head without torch.compile"
    )


torch.library.register_autograd(group_norm_relu, _norm_backward, setup_context=_keep_norm)
torch.library.register_autograd(group_norm_relu_backward, _refuse)
torch.library.register_autograd(add_doubled_backward, _double_again, setup_context=_keep_target)


def _dense(x: Tensor) -> Tensor:
    """The map itself if it is dense in NHWC, else a map in NCHW."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
