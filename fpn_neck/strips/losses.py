"""The losses of this package, and the accuracy: all are functions of sums over pixels by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fpn_neck.strips.pixel_loss import IGNORED, ClassLoss, ClassSums
from fpn_neck.utils.values import check_flag, check_number, check_share


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``; 0, with a gradient of 0, if nothing is counted."""
    return total / count.where(count > 0, math.inf)


class CrossEntropyLoss(ClassLoss):
    """Mean over the pixels of ``-w_t log p_t``, where t is the pixel's label.

    Args:
        class_weight: w; as in torch, the mean is then over the weights.
        avg_non_ignore: True (default, as in torch) divides by the weights of the labelled pixels;
            False divides by the number of all pixels, also the ignored, as mmseg's loss does by
            default.
        label_smoothing: e in [0, 1]; as in torch, ``w_t log p_t`` becomes ``(1 - e) w_t log p_t``
            and e times the mean over the classes of ``w_c log p_c``.
        ignore_index, loss_weight, loss_name: see `PixelLoss`.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    reads = frozenset({"log_p"})

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        *,
        ignore_index: int = IGNORED,
        avg_non_ignore: bool = True,
        label_smoothing: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str = "loss_ce",
    ) -> None:
        super().__init__(
            class_weight, ignore_index=ignore_index, loss_weight=loss_weight, loss_name=loss_name
        )
        self.avg_non_ignore = check_flag("avg_non_ignore", avg_non_ignore)
        self.label_smoothing = check_share("label_smoothing", label_smoothing)
        if label_smoothing:
            self.reads = self.reads | {"all_log_p"}

    def of_classes(self, sums: ClassSums) -> Tensor:
        """(sum of the weighted losses, its divisor)."""
        weights = torch.ones_like(sums.pixels) if self.class_weight is None else self.class_weight
        count = (weights * sums.pixels).sum()
        if not self.avg_non_ignore:
            count = torch.full_like(count, sums.size)
        log_p = sums.log_p
        if self.label_smoothing:
            log_p = torch.lerp(log_p, sums.all_log_p / len(log_p), self.label_smoothing)
        return torch.stack((-(weights * log_p).sum(), count))

    def value(self, sums: Tensor) -> Tensor:
        total, count = sums
        return self.loss_weight * _mean(total, count).float()


class DiceLoss(ClassLoss):
    """Multi-class soft Dice (Milletari et al., V-Net, arXiv:1606.04797, without the squares).

    For class c over all pixels i of the batch that are not ignored, with softmax p and one-hot t::

        dice_c = (2 * sum_i p_ic t_ic + eps) / (sum_i p_ic + sum_i t_ic + eps)
        loss   = sum_c w_c (1 - dice_c) / sum_c w_c

    mmseg's DiceLoss keeps the ignored pixels in the denominator. It also takes one Dice over all
    classes together, which the background dominates.

    Args:
        class_weight: w, one number >= 0 per class; None gives all the same weight.
        absent_classes: False (default) averages over the classes that have pixels in the batch.
            True averages over all classes; the Dice of an absent class is near 0 for any p > 0, so
            that it only pushes p down.
        eps: keeps the Dice of an empty class finite.
        ignore_index, loss_weight, loss_name: see `PixelLoss`.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    reads = frozenset({"p", "all_p"})

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        *,
        ignore_index: int = IGNORED,
        absent_classes: bool = False,
        eps: float = 1e-3,
        loss_weight: float = 1.0,
        loss_name: str = "loss_dice",
    ) -> None:
        super().__init__(
            class_weight, ignore_index=ignore_index, loss_weight=loss_weight, loss_name=loss_name
        )
        self.eps = check_number("eps", eps)
        if self.eps == 0:
            raise ValueError(f"eps={eps} must be > 0")
        self.absent_classes = check_flag("absent_classes", absent_classes)

    def of_classes(self, sums: ClassSums) -> Tensor:
        """(3, K): sums over the pixels of p t, of p and of t."""
        return torch.stack((sums.p, sums.all_p, sums.pixels))

    def value(self, sums: Tensor) -> Tensor:
        intersection, prediction, truth = sums
        dice = (2 * intersection + self.eps) / (prediction + truth + self.eps)
        weights = torch.ones_like(truth) if self.class_weight is None else self.class_weight
        if not self.absent_classes:
            weights = weights * (truth > 0)
        return self.loss_weight * _mean((weights * (1 - dice)).sum(), weights.sum()).float()


class PixelAccuracy(ClassLoss):
    """Percentage of the labelled pixels whose largest logit is their label's; for logs."""

    reads = frozenset({"correct"})

    def of_classes(self, sums: ClassSums) -> Tensor:
        """(correct pixels, pixels)."""
        return torch.stack((sums.correct.sum(), sums.pixels.sum()))

    def value(self, sums: Tensor) -> Tensor:
        correct, count = sums
        return _mean(100 * correct, count).float()
