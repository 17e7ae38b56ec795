"""Dice loss for label maps: one Dice per class, ignored pixels left out of every sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DiceLoss(nn.Module):
    """Multi-class soft Dice (Milletari et al., V-Net, arXiv:1606.04797, without the squares).

    For class c over all pixels i of the batch that are not ignored, with softmax p and one-hot t::

        dice_c = (2 * sum_i p_ic t_ic + eps) / (sum_i p_ic + sum_i t_ic + eps)
        loss   = sum_c w_c (1 - dice_c) / sum_c w_c

    mmseg's DiceLoss keeps the ignored pixels in the denominator and flattens the classes into one
    Dice, in which the background drowns the rest.

    Args:
        class_weight: w, one number >= 0 per class; None weighs all the same.
        ignore_index: label that counts nowhere.
        absent_classes: True also averages over classes without a pixel in the batch, whose Dice
            is near 0 for any p > 0 and only pushes them down; False (default) averages over the
            classes that are there.
        eps: keeps an empty class finite.
        loss_weight: factor on the result.
        loss_name: key of the loss in the frameworks' logs; contains 'loss'.

    Raises:
        ValueError: a negative weight or factor.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        *,
        ignore_index: int = 255,
        absent_classes: bool = False,
        eps: float = 1e-3,
        loss_weight: float = 1.0,
        loss_name: str = "loss_dice",
    ) -> None:
        super().__init__()
        if class_weight is not None and min(class_weight) < 0:
            raise ValueError(f"class_weight={list(class_weight)}: weights must be >= 0")
        if eps <= 0 or loss_weight < 0:
            raise ValueError(f"eps={eps} must be > 0 and loss_weight={loss_weight} >= 0")
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.ignore_index = ignore_index
        self.absent_classes = absent_classes
        self.eps = eps
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Compute the loss in float32.

        Args:
            logits: (N, K, H, W), floating point.
            target: (N, H, W), int64 labels in 0..K-1 or ``ignore_index``.
            weight: optional (N, H, W) factor per pixel, >= 0.
            ignore_index: overrides the constructor's (mmseg passes its head's).

        Returns:
            Scalar; 0 (with a gradient of 0) where every pixel is ignored.

        Raises:
            TypeError: ``target`` is not int64.
            ValueError: shapes do not fit each other or ``class_weight``, or a label is out of
                range.
        """
        ignore = self.ignore_index if ignore_index is None else ignore_index
        valid = target != ignore
        self._check(logits, target, valid, weight)
        pixels = valid.float() if weight is None else valid * weight.float()
        labels = target.where(valid, 0).unsqueeze(1)  # (N, 1, H, W)
        p = logits.float().softmax(1) * pixels.unsqueeze(1)  # (N, K, H, W)

        # Sums over pixels, one per class; t is never written out as a (N, K, H, W) one-hot. First
        # per row: a million float32 added one after the other would lose what is small.
        n, k, h, w = p.shape
        rows = torch.arange(n * h, device=p.device).view(n, 1, h, 1)
        index = (labels + k * rows).flatten()

        def per_class(values: Tensor) -> Tensor:
            return p.new_zeros(n * h * k).index_add(0, index, values.flatten()).view(-1, k).sum(0)

        intersection = per_class(p.gather(1, labels))
        truth = per_class(pixels)
        dice = (2 * intersection + self.eps) / (p.sum((0, 2, 3)) + truth + self.eps)

        weights = torch.ones_like(truth) if self.class_weight is None else self.class_weight
        if not self.absent_classes:
            weights = weights * (truth > 0)
        tiny = torch.finfo(weights.dtype).tiny  # all ignored: 0 / tiny
        return self.loss_weight * (weights * (1 - dice)).sum() / weights.sum().clamp(min=tiny)

    def _check(self, logits: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None) -> None:
        n, k, *size = logits.shape
        if target.shape != (n, *size):
            raise ValueError(
                f"target of shape {tuple(target.shape)} does not fit logits of shape "
                f"{tuple(logits.shape)}; expected {(n, *size)}: resize the logits to the labels"
            )
        if target.dtype != torch.int64:
            raise TypeError(f"target is {target.dtype}; labels must be int64: target.long()")
        if weight is not None and weight.shape != target.shape:
            raise ValueError(
                f"weight of shape {tuple(weight.shape)}: expected one per pixel, "
                f"{tuple(target.shape)}"
            )
        if self.class_weight is not None and len(self.class_weight) != k:
            raise ValueError(f"class_weight has {len(self.class_weight)} entries for {k} classes")
        wrong = valid & ((target < 0) | (target >= k))
        if wrong.any():
            raise ValueError(
                f"target holds the label {int(target[wrong][0])}; labels must be in 0..{k - 1} or "
                f"ignore_index; check the masks or num_classes"
            )
