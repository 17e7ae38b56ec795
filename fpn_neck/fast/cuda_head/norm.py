"""Group norm and ReLU together, on a GPU, for maps in NHWC.

torch's group norm knows only NCHW there: it copies the map before, and the next convolution copies
it back. Autocast also makes the map float32. Here the map keeps layout and dtype; sums and the
norm itself are float32. What is added to the map next comes along: a sum of the same size, or
one of coarser maps, which is upsampled on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from fpn_neck.fast.cuda.launch import Launch
from fpn_neck.fast.cuda.layout import power_of_two
from fpn_neck.fast.cuda_head.double import (
    Addend,
    add,
    add_launch,
    doubled_gradient,
    in_format_of,
    may_add,
)
from fpn_neck.fast.eligible import (
    are_for_triton,
    eager,
    is_unmodified,
    records_kernels,
    takes_fast_backward,
    takes_triton,
)
from fpn_neck.fast.memory_format import is_channels_last, is_half
from fpn_neck.utils.sizes import ceil_div

_CHUNK = 256  # pixels whose sums one program makes
_MOST_CHANNELS = 1024


def norm_act(
    norm: nn.Module, act: nn.Module | None, x: Tensor, addend: Addend | None = None
) -> Tensor:
    """``act(norm(x))``, in two passes where both are plain group norm and ReLU; plus the addend."""
    if not _fits(norm, act, x):
        x = norm(x)
        x = x if act is None else act(x)
        return x if addend is None else add(x, addend)
    plain = cast(nn.GroupNorm, norm)
    own = x, plain.num_groups, plain.weight, plain.bias, plain.eps
    rides = addend is not None and may_add(x, addend)
    other, doubled = (addend.map, addend.doubled) if addend and rides else (None, False)
    if torch.compiler.is_compiling():
        out = torch.ops.fpn_neck.group_norm_relu.default(*own, other, doubled)[0]
    else:
        out = group_norm_relu(*own, other, doubled)
    return out if addend is None or rides else add(out, addend)


def _fits(norm: nn.Module, act: nn.Module | None, x: Tensor) -> bool:
    return (
        type(norm) is nn.GroupNorm
        and type(act) is nn.ReLU
        and (records_kernels(x) or (eager() and takes_triton(x)))
        and is_channels_last(x)
        and norm.affine
        and x.shape[1] <= _MOST_CHANNELS
        and is_unmodified(norm)
        and is_unmodified(act)
        and all(t.dtype in (x.dtype, torch.float32) for t in (norm.weight, norm.bias))
        and are_for_triton(x)
        and are_for_triton(norm.weight, norm.bias)
        and x.device == norm.weight.device
    )


def in_layout_of_tensor_cores(maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """Maps for chains of convolutions and norms: in NHWC if they compute in half precision."""
    if eager() and takes_triton(maps[0]) and is_half(maps[0]):
        return [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return maps


def group_norm_relu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    other: Tensor | None = None,
    doubled: bool = False,
) -> Tensor:
    """relu(group_norm(x)) + other, of x's dtype; differentiable.

    Args:
        x: (N, C, H, W), dense in NHWC, float32, float16 or bfloat16.
        groups: divides C.
        weight, bias: (C,), of any float dtype.
        other: of x's dtype and shape; or (N, C, h, w) if ``doubled``, see `add_doubled`.
    """
    arguments = x, groups, weight, bias, eps, other, doubled
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, other)
    ):
        return _GroupNormRelu.apply(*arguments)
    return normalise(*arguments)[0]


def normalise(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    other: Tensor | None = None,
    doubled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """relu(group_norm(x)) + other, the groups' means and 1 / deviations (N, groups), float32."""
    mean, rstd = _moments(x, groups, eps)
    norm = mean, rstd, weight.contiguous(), bias.contiguous()
    out = torch.empty_like(x)
    if other is not None:
        other = in_format_of(other, x)
    if other is not None and doubled:
        add_launch(x, other, out, norm).run()
    else:
        write_launch(x, *norm, out, other).run()
    return out, mean, rstd


class _GroupNormRelu(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        other: Tensor | None,
        doubled: bool,
    ) -> Tensor:
        out, mean, rstd = normalise(x, groups, weight, bias, eps, other, doubled)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        ctx.size = other.shape[-2:] if other is not None and doubled else None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[2:4]
        found: tuple[Tensor, ...]
        if takes_fast_backward(grad):
            found = gradients(grad, x, weight, bias, mean, rstd)
        else:
            found = _plain_gradients(grad, x, ctx.groups, weight, bias, ctx.eps)
        by_x, by_weight, by_bias = (g if w else None for g, w in zip(found, wanted, strict=True))
        by_other = None
        if ctx.needs_input_grad[5]:
            by_other = grad if ctx.size is None else doubled_gradient(grad, ctx.size)
        return by_x, None, by_weight, by_bias, None, by_other, None


def _plain_gradients(
    grad: Tensor, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, ...]:
    """Gradients of x, weight and bias by torch's operators, which can be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views end this derivative, and pass the next one on.
        x, weight, bias = (
            t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in (x, weight, bias)
        )
        y = F.group_norm(x.float(), groups, weight.float(), bias.float(), eps)
        return torch.autograd.grad(
            F.relu(y).to(x.dtype), (x, weight, bias), grad, create_graph=again
        )


def _moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of every group, (N, groups), float32."""
    chunks = ceil_div(x.shape[2] * x.shape[3], _CHUNK)
    moments = x.new_empty((len(x), chunks, 2, x.shape[1]), dtype=torch.float32)
    mean, rstd = (x.new_empty((len(x), groups), dtype=torch.float32) for _ in range(2))
    for launch in moment_launches(x, moments, mean, rstd, eps):
        launch.run()
    return mean, rstd


def moment_launches(
    x: Tensor, moments: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Launch, Launch]:
    """What fills ``moments``, then ``mean`` and ``rstd``."""
    from fpn_neck.fast.cuda_head.norm_kernels import chunk_moments, group_moments

    (photos, chunks), groups = moments.shape[:2], mean.shape[1]
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    sizes = {"C": channels, "CHUNK": _CHUNK}
    lanes = power_of_two(channels // groups)
    return (
        Launch(chunk_moments, (chunks, photos), (x, moments, pixels), sizes | _tile(channels)),
        Launch(
            group_moments,
            (groups, photos),
            (moments, mean, rstd, pixels, chunks, eps),
            sizes | {"WIDTH": channels // groups, "LANES": lanes, "BLOCK": max(1, 512 // lanes)},
        ),
    )


def write_launch(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    other: Tensor | None = None,
) -> Launch:
    """What fills ``out``; ``other`` is added, which has x's shape and strides."""
    from fpn_neck.fast.cuda_head.norm_kernels import write_norm_relu

    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    sizes = {"C": channels, "WIDTH": channels // mean.shape[1]} | _tile(channels)
    grid = ceil_div(pixels, sizes["ROWS"]), len(x)
    tensors = x, mean, rstd, weight, bias, x if other is None else other, out
    return Launch(write_norm_relu, grid, (*tensors, pixels), sizes | {"ADD": other is not None})


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; deterministic."""
    grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
    affine = weight.contiguous(), bias.contiguous()
    channels, groups = x.shape[1], mean.shape[1]
    chunks = ceil_div(x.shape[2] * x.shape[3], _CHUNK)
    sums = x.new_empty((len(x), chunks, 2, channels), dtype=torch.float32)
    gradient_sum_launch(grad, x, mean, rstd, *affine, sums).run()
    by_photo = sums.sum(1)  # (N, 2, C)
    # Two sums, not one: an operator's results must not share memory.
    by_bias, by_weight = (part.sum(0) for part in by_photo.unbind(1))
    numbers = channels // groups * x.shape[2] * x.shape[3]
    shares = (by_photo * (weight.float() / numbers)).unflatten(2, (groups, -1)).sum(3)
    out = torch.empty_like(x)
    shares = shares.transpose(0, 1).contiguous()  # (2, N, groups)
    gradient_launch(grad, x, mean, rstd, *affine, shares, out).run()
    return out, by_weight.to(weight.dtype), by_bias.to(bias.dtype)


def gradient_sum_launch(grad: Tensor, x: Tensor, *others: Tensor) -> Launch:
    """What fills the last of ``others``: mean, rstd, weight, bias, sums."""
    from fpn_neck.fast.cuda_head.norm_kernels import chunk_gradients

    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    mean, sums = others[0], others[-1]
    sizes = {"C": channels, "CHUNK": _CHUNK, "WIDTH": channels // mean.shape[1]} | _tile(channels)
    return Launch(chunk_gradients, (sums.shape[1], len(x)), (grad, x, *others, pixels), sizes)


def gradient_launch(grad: Tensor, x: Tensor, *others: Tensor) -> Launch:
    """What fills the last of ``others``: mean, rstd, weight, bias, shares, out."""
    from fpn_neck.fast.cuda_head.norm_kernels import write_norm_gradient

    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    sizes = {"C": channels, "WIDTH": channels // others[0].shape[1]} | _tile(channels)
    grid = ceil_div(pixels, sizes["ROWS"]), len(x)
    return Launch(write_norm_gradient, grid, (grad, x, *others, pixels), sizes)


def _tile(channels: int) -> dict[str, int]:
    """Pixels and channels that a program holds at a time, about 4096 numbers."""
    block = power_of_two(channels)
    return {"ROWS": max(1, min(_CHUNK, 4096 // block)), "CHANNELS": block}
