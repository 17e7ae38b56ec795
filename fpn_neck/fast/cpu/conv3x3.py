"""3x3 convolution of stride 1 and padding 1 by Winograd's algorithm, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from fpn_neck.fast.cpu import processor, winograd
from fpn_neck.fast.cpu.memory import new_map, same_bits
from fpn_neck.fast.cpu.products import Products
from fpn_neck.fast.eligible import are_plain_tensors, eager, is_plain_conv, takes_fast_backward
from fpn_neck.fast.memory_format import is_channels_last

# Convolution -> (a copy of its weight, its transform). The copy is compared at every use: that is
# cheap, and version counters miss changes of ``weight.data`` (mmengine's EMA hook makes them).
# The weight itself can't be the key: torch.utils.swap_tensors refuses tensors with weak references.
_transforms: WeakKeyDictionary[nn.Module, tuple[Tensor, Products]] = WeakKeyDictionary()


def run_conv(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``, by Winograd's algorithm where it applies and is faster."""
    # A tiny map takes some microseconds: what is cheap and decides most often comes first.
    if type(conv) is not nn.Conv2d or conv.kernel_size != (3, 3) or not eager():
        return conv(x)
    if 9 * conv.out_channels * x.numel() < processor.LEAST_MULTIPLY_ADDS:
        return conv(x)
    channels = conv.in_channels, conv.out_channels
    by_winograd = winograd_is_faster(x, *channels)
    if (
        (by_winograd or _weight_gradient_is_faster(x, *channels))
        and x.shape[1] == conv.in_channels
        and is_plain_conv(conv, 3)
        and are_plain_tensors(x, conv.weight, *(() if conv.bias is None else (conv.bias,)))
    ):
        if by_winograd:
            return conv3x3(x, conv.weight, conv.bias, is_channels_last(x), conv)
        if conv.weight.requires_grad:
            return _Conv3x3.apply(x, conv.weight, conv.bias, None)
    return conv(x)


def in_faster_layout(maps: Sequence[Tensor], out_channels: int) -> Sequence[Tensor]:
    """Maps for chains of 3x3 convolutions: in channels_last if Winograd is faster for the finest.

    Args:
        maps: finest first, (N, C_i, H_i, W_i).
        out_channels: of the first convolutions.
    """
    finest = maps[0]
    if (
        eager()
        and all(x.is_cpu for x in maps)
        and winograd_is_faster(finest, finest.shape[1], out_channels)
    ):
        return [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return maps


def winograd_is_faster(x: Tensor, in_channels: int, out_channels: int) -> bool:
    """Whether Winograd's algorithm is faster than the direct one for maps of x's size and dtype.

    Never on other devices, where weights and modules then need no look.
    """
    least = processor.limits()
    limit = least.training if torch.is_grad_enabled() else least.inference
    return _reaches(x, in_channels, out_channels, limit)


def _weight_gradient_is_faster(x: Tensor, in_channels: int, out_channels: int) -> bool:
    """Whether only the weight's gradient is: torch's is slow for maps in channels_last."""
    limit = processor.limits().weight_gradient
    return (
        limit is not None
        and torch.is_grad_enabled()
        and _reaches(x, in_channels, out_channels, limit)
        and is_channels_last(x)
    )


def _reaches(x: Tensor, in_channels: int, out_channels: int, limit: processor.Limit) -> bool:
    """Whether a 3x3 on a map of x's size and dtype (N, C, H, W), C any, is large enough."""
    if not x.is_cpu or x.dim() != 4:  # torch's convolution also takes a map without a batch
        return False
    (n, _, height, width), threads = x.shape, torch.get_num_threads()
    of_image = 9 * in_channels * out_channels * height * width
    return (
        of_image >= limit.of_image
        and n * of_image >= threads * limit.multiply_adds
        and n * height * width >= threads * limit.pixels
        and min(in_channels, out_channels) >= limit.channels
        and not (x.dtype == torch.bfloat16 and processor.limits().fast_bfloat16)
    )


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channels_last: bool,
    owner: nn.Module | None = None,
) -> Tensor:
    """conv2d(x, weight, bias, padding=1); differentiable twice.

    Args:
        x: (N, C, H, W). weight: (O, C, 3, 3). bias: (O,) or None.
        channels_last: memory format of the result, which has the weight's dtype.
        owner: the module that has the weight; in inference, the transformed weight is kept as long
            as the module exists.
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Conv3x3.apply(x, weight, bias, channels_last)
    return conv3x3_rows(winograd.rows_of(x), x, weight, bias, channels_last, owner)


def conv3x3_rows(
    fill_rows: winograd.FillRows,
    like: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channels_last: bool,
    owner: nn.Module | None = None,
) -> Tensor:
    """The same without gradients, for a map of ``like``'s size that ``fill_rows`` writes."""
    out = new_map(like, len(weight), channels_last, weight.dtype)
    return winograd.convolve(fill_rows, _transform(weight, like, owner), bias, out)


def _transform(weight: Tensor, like: Tensor, owner: nn.Module | None) -> Products:
    if owner is None:
        return winograd.transform_weight(weight, like)
    known = _transforms.get(owner)
    if known is None or not same_bits(known[0], weight):
        known = _transforms[owner] = weight.detach().clone(), winograd.transform_weight(weight)
    return known[1]


def forget_weights(module: nn.Module | None = None) -> None:
    """Free the transformed weights that inference keeps; the next call transforms them again.

    ``train()``, ``to()`` and other conversions of a model do that too.

    Args:
        module: whose convolutions' weights, its parts' included; None means all of the process.
    """
    if module is None:
        _transforms.clear()
        return
    for part in module.modules():
        _transforms.pop(part, None)


def aten_backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias of a convolution that keeps the size, by torch's operator.

    Args:
        wanted: whether each of the three is wanted; the others are None.
    """
    ones, padding = [1, 1], [size // 2 for size in weight.shape[2:]]
    maps = grad, x.to(grad), weight.to(grad)
    return torch.ops.aten.convolution_backward(
        *maps, [len(weight)], ones, padding, ones, False, [0, 0], 1, wanted
    )


class _Conv3x3(Function):
    """The convolution, with Winograd's gradient of its weight where `takes_fast_backward`.

    Args:
        channels_last: memory format of the result, by Winograd's algorithm; None: the result and
            the input's gradient are torch's.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.by_winograd = channels_last is not None
        if channels_last is None:
            return F.conv2d(x, weight, bias, padding=1)
        out = new_map(x, len(weight), channels_last, weight.dtype)
        transformed = winograd.transform_weight(weight, x)
        return winograd.convolve(winograd.rows_of(x), transformed, bias, out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        if not takes_fast_backward(grad):
            return *aten_backward(grad, x, weight, (wants_x, wants_weight, wants_bias)), None
        if not (grad.is_contiguous() or is_channels_last(grad)):
            grad = grad.contiguous(memory_format=torch.channels_last)
        grad_weight = winograd.weight_gradient(x, grad).to(weight.dtype) if wants_weight else None
        grad_x = None
        if wants_x:  # a whole map: last, when the temporaries of the other are freed
            grad_x = _input_gradient(grad, x, weight, ctx.by_winograd)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if wants_bias else None, None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, by_winograd: bool) -> Tensor | None:
    if not by_winograd:
        return aten_backward(grad, x, weight, (True, False, False))[0]
    # The kernel rotated by 180 degrees takes every output back to its inputs.
    rotated = winograd.transform_weight(weight.flip(2, 3).transpose(0, 1), x)
    grad_x = new_map(x, x.shape[1], is_channels_last(x), x.dtype)
    return winograd.convolve(winograd.rows_of(grad), rotated, None, grad_x)
