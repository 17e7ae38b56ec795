"""Losses at the labels' size from logits at the pyramid's, without the logits at that size.

Logits of 150 classes for eight images of 512 x 512 px take 1.3 GB; their logarithms, their gradient
and its parts take as much each. Here a few rows at a time are resized. The forward pass takes the
sums over pixels that a loss is a function of. The backward pass takes the derivative by these sums
and goes over the rows once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from fpn_neck.strips.any_loss import losses_by_strips
from fpn_neck.strips.labels import check_dtype
from fpn_neck.strips.operators import class_sums
from fpn_neck.strips.pixel_loss import ClassLoss, ClassSums, PixelLoss, count_classes
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
    if target.shape[0] != logits.shape[0]:
        raise ValueError(f"{len(target)} label maps for the logits of {len(logits)} images")
    if target.device != logits.device:
        raise ValueError(
            f"target is on {target.device}, logits are on {logits.device}: move the labels"
        )
    check_dtype(target)
    ignored = [loss.ignore_index if ignore_index is None else ignore_index for loss in losses]
    for loss, index in zip(losses, ignored, strict=True):
        loss.check_classes(count_classes(logits), index)
    if logits.shape[1] == 1:
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
    groups: dict[tuple[int, bool], list[int]] = {}  # what is computed in one pass
    for i, loss in enumerate(losses):
        groups.setdefault((ignored[i], _is_class_loss(loss)), []).append(i)
    found: dict[int, Tensor] = {}
    for (index, by_classes), members in groups.items():
        way = _by_classes if by_classes else losses_by_strips
        values = way(logits, target, [losses[i] for i in members], index, align_corners)
        found.update(zip(members, values, strict=True))
    return tuple(found[i] for i in range(len(losses)))


def _is_class_loss(loss: PixelLoss) -> bool:
    """Whether its sums are those of its classes: a subclass may have other ones."""
    return isinstance(loss, ClassLoss) and type(loss).sums is ClassLoss.sums


def _by_classes(
    logits: Tensor,
    target: Tensor,
    losses: Sequence[PixelLoss],
    ignore_index: int,
    align_corners: bool,
) -> list[Tensor]:
    """Losses that are functions of `ClassSums`, which one operator computes."""
    class_losses = cast("Sequence[ClassLoss]", losses)
    reads = " ".join(sorted(set().union(*(loss.reads for loss in class_losses))))
    sums, _ = class_sums(logits, target, ignore_index, align_corners, reads)
    sums_of_classes = ClassSums._make((*sums.unbind(0), target.numel()))
    return [loss.value(loss.of_classes(sums_of_classes)) for loss in class_losses]


def check_losses(losses: Sequence[PixelLoss]) -> None:
    """Raise TypeError unless there are losses, each a `PixelLoss`."""
    if not losses:
        raise TypeError("losses: got none; give one, e.g. fpn_neck.CrossEntropyLoss()")
    for i, loss in enumerate(losses):
        if not isinstance(loss, PixelLoss):
            raise TypeError(
                f"losses[{i}]={loss!r}: expected a loss of fpn_neck, e.g. "
                "fpn_neck.CrossEntropyLoss(); give torch's own losses model(images) and the labels"
            )
