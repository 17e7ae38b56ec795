"""Losses that define their own sums, strip by strip, with gradients by torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fpn_neck.strips.class_sums import ResizedLogits
from fpn_neck.strips.labels import check_range
from fpn_neck.strips.pixel_loss import PixelLoss


def losses_by_strips(
    logits: Tensor,
    target: Tensor,
    losses: Sequence[PixelLoss],
    ignore_index: int,
    align_corners: bool,
) -> tuple[Tensor, ...]:
    """See `fpn_neck.strips.full_size_loss.full_size_losses`; logits of two classes or more."""
    return _Losses.apply(logits, target, tuple(losses), ignore_index, align_corners)


class _Losses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        losses: tuple[PixelLoss, ...],
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.options = losses, ignore_index, align_corners
        maps = ResizedLogits(logits, target, ignore_index, align_corners)
        sums: list[Tensor] = []
        for strip in maps.strips():
            labels, pixels = maps.labels(strip)
            check_range(labels, maps.classes, ignore_index)
            strip_sums = _sums(losses, maps.values(strip), labels, pixels)
            sums = [a + b for a, b in zip(sums, strip_sums, strict=True)] if sums else strip_sums
        ctx.save_for_backward(logits, target, *sums)
        return tuple(loss.value(s) for loss, s in zip(losses, sums, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        losses, ignore_index, align_corners = ctx.options
        logits, target, *sums = ctx.saved_tensors
        parts = [
            (loss, _derivative(loss, s, g))
            for loss, s, g in zip(losses, sums, grads, strict=True)
            if g is not None
        ]
        maps = ResizedLogits(logits, target, ignore_index, align_corners)
        grad = torch.zeros_like(logits, dtype=maps.dtype)
        for strip in maps.strips():
            values = maps.values(strip).requires_grad_()
            with torch.enable_grad():
                strip_sums = _sums([loss for loss, _ in parts], values, *maps.labels(strip))
            derivatives = [derivative for _, derivative in parts]
            (by_pixel,) = torch.autograd.grad(strip_sums, values, derivatives)
            grad[maps.cells(strip)] += maps.resize.transposed(by_pixel, strip.start, strip.end)
        return grad.to(logits.dtype), None, None, None, None


def _sums(
    losses: Sequence[PixelLoss], values: Tensor, labels: Tensor, pixels: Tensor
) -> list[Tensor]:
    """Sums without autocast: the forward pass may run under it, the backward pass does not."""
    with torch.autocast(values.device.type, enabled=False):
        log_p = values.float().log_softmax(1)
        return [loss.sums(log_p, labels, pixels.float()) for loss in losses]


def _derivative(loss: PixelLoss, sums: Tensor, grad: Tensor) -> Tensor:
    """Gradients of ``grad * loss`` with respect to the loss's sums."""
    with torch.enable_grad():
        sums = sums.detach().requires_grad_()
        return torch.autograd.grad(loss.value(sums), sums, grad)[0]
