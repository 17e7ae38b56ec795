"""The loss at the labels' size, from logits of stride 4: ours, and resizing all logits first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import STRIDES
from benchmarks.labels import LabelsCase
from fpn_neck import CrossEntropyLoss, DiceLoss
from fpn_neck.strips.full_size_loss import full_size_losses

IGNORE = 255
LABELLED_SIDE = 16  # px of the squares of one label


class LossCase(LabelsCase):
    """Logits -> cross-entropy; the backbone is not used."""

    exported = None
    has_backward = True
    with_dice: ClassVar[bool] = False

    def ours(self) -> nn.Module:
        return _Loss(self, _full_size_loss)

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        return {"resize + loss": lambda: _Loss(self, _resize_and_loss)}

    def work(self) -> dict[str, int]:
        labels = super().work()
        cells = self.batch * self.height * self.width // STRIDES[0] ** 2
        gradient = 4 * self.classes * cells
        return {"multiply_adds": labels["multiply_adds"], "bytes": labels["bytes"] + gradient}

    def truth(self) -> Tensor:
        """Labels in squares, one in twenty of them ignored."""
        generator = torch.Generator().manual_seed(1)
        sides = [-(-s // LABELLED_SIDE) for s in (self.height, self.width)]
        squares = torch.randint(self.classes, (self.batch, *sides), generator=generator)
        squares[torch.rand(squares.shape, generator=generator) < 0.05] = IGNORE
        for axis in (1, 2):
            squares = squares.repeat_interleave(LABELLED_SIDE, axis)
        return squares[:, : self.height, : self.width].contiguous().to(self.device)


class DiceLossCase(LossCase):
    """Logits -> cross-entropy + Dice; the backbone is not used."""

    with_dice = True


class _Loss(nn.Module):
    def __init__(self, case: LossCase, loss: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.case, self.loss = case, loss

    @cached_property
    def truth(self) -> Tensor:
        return self.case.truth()

    def forward(self, logits: Sequence[Tensor]) -> list[Tensor]:
        return [self.loss(logits[0], self.truth, self.case.with_dice)]


def _full_size_loss(logits: Tensor, truth: Tensor, with_dice: bool) -> Tensor:
    losses = [CrossEntropyLoss(), DiceLoss()] if with_dice else [CrossEntropyLoss()]
    values = full_size_losses(logits, truth, losses)
    return sum(values[1:], values[0])


def _resize_and_loss(logits: Tensor, truth: Tensor, with_dice: bool) -> Tensor:
    x = F.interpolate(logits, truth.shape[1:], mode="bilinear")
    loss = F.cross_entropy(x, truth, ignore_index=IGNORE)
    return loss + _dice_loss(x, truth) if with_dice else loss


def _dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """`fpn_neck.DiceLoss` as it is usually written, with one-hot labels."""
    valid = (truth != IGNORE).unsqueeze(1)
    p = logits.softmax(1) * valid
    one_hot = F.one_hot(truth.where(truth != IGNORE, 0), logits.shape[1])
    one_hot = one_hot.movedim(-1, 1).float() * valid
    both, predicted, labelled = (x.sum((0, 2, 3)) for x in (p * one_hot, p, one_hot))
    present, eps = labelled > 0, 1e-3
    losses = 1 - (2 * both + eps) / (predicted + labelled + eps)
    return (losses * present).sum() / present.sum()
