"""Losses at the labels' size from logits at the pyramid's, without the logits at that size.

Logits of 150 classes for eight images of 512 x 512 px take 1.3 GB; their logarithms, their gradient
and its parts take as much each. Here a few rows at a time are resized. The forward pass takes the
sums over pixels that a loss is a function of. The backward pass takes the derivative by these sums
and goes over the rows once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fpn_neck.losses import PixelLoss, check_labels, count_classes, log_probabilities
from fpn_neck.strips.row_map import RowMap
from fpn_neck.utils.arguments import check_float_map, check_tensor


def full_size_losses(
    logits: Tensor,
    target: Tensor,
    losses: Sequence[PixelLoss],
    *,
    ignore_index: int | None = None,
    align_corners: bool = False,
) -> tuple[Tensor, ...]:
    """``[loss(resize(logits, target's size), target) for loss in losses]``.

    Differentiable once. Memory besides the logits and their gradient is a few strips of a few MiB.

    Args:
        logits: (N, K, h, w), floating point.
        target: (N, H, W), int64 labels in 0..K-1 (0 and 1 for one logit) or ``ignore_index``.
        losses: one or more.
        ignore_index: label to ignore in every loss; None takes each loss's own.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        One float32 scalar per loss.

    Raises:
        TypeError, ValueError: a loss is not a `PixelLoss`, and see `PixelLoss.forward`.
    """
    check_losses(losses)
    check_float_map("logits", logits)
    if check_tensor("target", target).dim() != 3 or 0 in target.shape[1:]:
        raise ValueError(f"target of shape {tuple(target.shape)}: expected (N, H, W)")
    if len(target) != len(logits):
        raise ValueError(f"{len(target)} label maps for the logits of {len(logits)} images")
    ignored = [loss.ignore_index if ignore_index is None else ignore_index for loss in losses]
    for index in dict.fromkeys(ignored):
        check_labels(target, count_classes(logits), index)
    for loss in losses:
        loss.check_classes(count_classes(logits))
    return _FullSizeLosses.apply(logits, target, tuple(losses), tuple(ignored), align_corners)


def check_losses(losses: Sequence[PixelLoss]) -> None:
    """Raise TypeError unless there are losses, each a `PixelLoss`."""
    if not losses:
        raise TypeError("losses: got none; give one, e.g. fpn_neck.CrossEntropyLoss()")
    for i, loss in enumerate(losses):
        if not isinstance(loss, PixelLoss):
            raise TypeError(
                f"losses[{i}]={loss!r}: expected a fpn_neck.PixelLoss, e.g. "
                "fpn_neck.CrossEntropyLoss(); give torch's own losses model(images) and the labels"
            )


class _FullSizeLosses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        losses: tuple[PixelLoss, ...],
        ignored: tuple[int, ...],
        align_corners: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.options = losses, ignored, align_corners
        sums: list[Tensor] = []
        for image, labels in zip(logits.split(1), target.split(1), strict=True):
            maps = RowMap.from_tensor(image).resize(target.shape[-2:], align_corners)
            for strip in _strips(maps, labels):
                strip_sums = [_sums(*pair, *strip) for pair in zip(losses, ignored, strict=True)]
                sums = (
                    [a + b for a, b in zip(sums, strip_sums, strict=True)] if sums else strip_sums
                )
        ctx.save_for_backward(logits, target, *sums)
        return tuple(loss.value(s) for loss, s in zip(losses, sums, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        losses, ignored, align_corners = ctx.options
        logits, target, *sums = ctx.saved_tensors
        derivatives = [
            (loss, index, _derivative(loss, s, g))
            for loss, index, s, g in zip(losses, ignored, sums, grads, strict=True)
            if g is not None
        ]
        grad = torch.zeros_like(logits)
        images = zip(logits.split(1), target.split(1), grad.split(1), strict=True)
        for image, labels, image_grad in images:
            leaves: list[tuple[int, int, Tensor]] = []

            def take(start: int, end: int, image=image, leaves=leaves) -> Tensor:
                leaf = image[:, :, start:end].detach().requires_grad_()
                leaves.append((start, end, leaf))
                return leaf

            maps = RowMap(image.shape, image, take)
            with torch.enable_grad():
                maps = maps.resize(target.shape[-2:], align_corners)
                for strip in _strips(maps, labels):
                    parts = [(_sums(loss, i, *strip) * d).sum() for loss, i, d in derivatives]
                    sum(parts[1:], parts[0]).backward()
                    start, end, leaf = leaves.pop()
                    image_grad[:, :, start:end] += leaf.grad
        return grad, None, None, None, None


def _sums(loss: PixelLoss, ignore_index: int, log_p: Tensor, target: Tensor) -> Tensor:
    """Sums without autocast: the forward pass may run under it, the backward pass does not."""
    valid = target != ignore_index
    with torch.autocast(log_p.device.type, enabled=False):
        return loss.sums(log_p, target.where(valid, 0), valid.float())


def _derivative(loss: PixelLoss, sums: Tensor, grad: Tensor) -> Tensor:
    """Gradients of ``grad * loss`` with respect to the loss's sums."""
    with torch.enable_grad():
        sums = sums.detach().requires_grad_()
        return torch.autograd.grad(loss.value(sums), sums, grad)[0]


def _strips(maps: RowMap, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the probabilities, and the labels, a few rows at a time."""
    for rows, strip in maps.strips():
        yield log_probabilities(strip), labels[:, rows]
