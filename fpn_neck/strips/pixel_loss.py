"""What losses are that are functions of a few sums over the labelled pixels.

Sums can be taken a few rows at a time, so such a loss does not need all logits at the labels' size:
see `fpn_neck.strips.full_size_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fpn_neck.strips.labels import check_dtype, checked_labels
from fpn_neck.utils.arguments import check_float_map, check_tensor
from fpn_neck.utils.values import check_number, check_numbers, check_whole


class ClassSums(NamedTuple):
    """Sums over the pixels that are not ignored, of every class c; each (K,), float64.

    Attributes:
        pixels: pixels of label c.
        log_p: ``log p_c`` of the pixels of label c.
        p: ``p_c`` of the pixels of label c.
        correct: pixels of label c whose largest logit is c's.
        all_p: ``p_c`` of all pixels.
        all_log_p: ``log p_c`` of all pixels.
        size: number of pixels, also of the ignored ones.
    """

    pixels: Tensor
    log_p: Tensor
    p: Tensor
    correct: Tensor
    all_p: Tensor
    all_log_p: Tensor
    size: int

    @classmethod
    def of(cls, log_p: Tensor, labels: Tensor, pixels: Tensor, reads: frozenset[str]) -> ClassSums:
        """The sums that ``reads`` names; the others are 0. See `PixelLoss.sums`."""
        classes = log_p.shape[1]
        zeros = log_p.new_zeros(classes, dtype=torch.float64)

        def by_class(values: Tensor) -> Tensor:
            return (values * pixels.unsqueeze(1)).sum((0, 2, 3)).double()

        own = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        p = log_p.exp() if "all_p" in reads else None
        return cls(
            pixels=sum_by_label(pixels, labels, classes),
            log_p=sum_by_label(own * pixels, labels, classes) if "log_p" in reads else zeros,
            p=sum_by_label(own.exp() * pixels, labels, classes) if "p" in reads else zeros,
            correct=sum_by_label((log_p.max(1).indices == labels) * pixels, labels, classes)
            if "correct" in reads
            else zeros,
            all_p=zeros if p is None else by_class(p),
            all_log_p=by_class(log_p) if "all_log_p" in reads else zeros,
            size=labels.numel(),
        )


IGNORED = 255  # in masks of one byte, as in mmseg


class PixelLoss(nn.Module):
    """A loss ``loss_weight * value(sums over pixels)``.

    A subclass defines ``sums`` and ``value``. If its sums follow from `ClassSums`, make it a
    `ClassLoss`: that is faster. One logit per pixel stands for two classes, 0 and 1. Its sigmoid
    is the probability of class 1.

    Args:
        class_weight: one number >= 0 per class (two for one logit); None gives all the same weight.
        ignore_index: label to ignore.
        loss_weight: factor on the result.
        loss_name: key of the loss in the frameworks' logs; contains 'loss'.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        *,
        ignore_index: int = IGNORED,
        loss_weight: float = 1.0,
        loss_name: str = "loss",
    ) -> None:
        super().__init__()
        weights = None
        if class_weight is not None:
            numbers = check_numbers("class_weight", class_weight)
            weights = torch.tensor(numbers, dtype=torch.float32)
        self.register_buffer("class_weight", weights, persistent=False)
        self.ignore_index = check_whole("ignore_index", ignore_index, -(1 << 31), 1 << 31)
        self.loss_weight = check_number("loss_weight", loss_weight)
        if not isinstance(loss_name, str):
            raise TypeError(f"loss_name={loss_name!r}: expected a string")
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
            target: (N, H, W), int64 labels in 0..K-1 (0 and 1 for one logit) or ``ignore_index``.
            weight: optional (N, H, W) factor per pixel, >= 0.
            ignore_index: overrides the constructor's (mmseg passes its head's).

        Returns:
            Scalar; 0, with a gradient of 0, if every pixel is ignored.

        Raises:
            TypeError: ``logits`` are not floating point, ``target`` is not int64.
            ValueError: shapes do not fit each other or ``class_weight``, a label is out of range,
                or the default ``ignore_index`` is one of the classes.
        """
        ignore = self.ignore_index if ignore_index is None else ignore_index
        check_float_map("logits", logits)
        check_tensor("target", target)
        if target.shape != logits[:, 0].shape:
            raise ValueError(
                f"target of shape {tuple(target.shape)} does not fit logits of shape "
                f"{tuple(logits.shape)}; expected {tuple(logits[:, 0].shape)}: resize the logits "
                "to the labels"
            )
        if weight is not None and check_tensor("weight", weight).shape != target.shape:
            raise ValueError(
                f"weight of shape {tuple(weight.shape)}: expected one per pixel, "
                f"{tuple(target.shape)}"
            )
        check_dtype(target)
        self.check_classes(count_classes(logits), ignore)
        valid = target != ignore
        labels = checked_labels(target, count_classes(logits), ignore)
        pixels = valid.float() if weight is None else valid * weight.float()
        return self.value(self.sums(log_probabilities(logits), labels, pixels))

    def check_classes(self, num_classes: int, ignore_index: int) -> None:
        """Raise ValueError unless ``class_weight`` and the ignored label fit so many classes."""
        if num_classes > ignore_index == IGNORED:
            raise ValueError(
                f"ignore_index={IGNORED} is one of the {num_classes} classes: give another one, "
                "such as -100; in mmseg to decode_head"
            )
        if self.class_weight is not None and len(self.class_weight) != num_classes:
            raise ValueError(
                f"class_weight has {len(self.class_weight)} entries for {num_classes} classes"
            )

    def sums(self, log_p: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
        """Sums over pixels, float64, of any shape.

        Args:
            log_p: logarithms of the probabilities, (N, K, H, W), float32.
            labels: (N, H, W), int64 in 0..K-1, also where ``pixels`` is 0.
            pixels: weight of every pixel, (N, H, W), float32; 0 if it is ignored.
        """
        raise NotImplementedError

    def value(self, sums: Tensor) -> Tensor:
        """The loss, a float32 scalar, from the sums over all pixels of the batch."""
        raise NotImplementedError


class ClassLoss(PixelLoss):
    """A loss whose sums follow from those of every class.

    A subclass defines ``reads``, ``of_classes`` and ``value``.

    Attributes:
        reads: what it takes from `ClassSums`, beside ``pixels`` and ``size``.
    """

    reads: frozenset[str] = frozenset()

    def sums(self, log_p: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
        return self.of_classes(ClassSums.of(log_p, labels, pixels, self.reads))

    def of_classes(self, sums: ClassSums) -> Tensor:
        """What `PixelLoss.sums` gives."""
        raise NotImplementedError


def sum_by_label(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sums (classes,), float64, of values of pixels with a label, both (N, H, W)."""
    if values.device.type == "cpu":
        sums = values.new_zeros(classes, dtype=torch.float64)
        return sums.index_add(0, labels.flatten(), values.double().flatten())
    # float64 is slow on a GPU, and so are many additions to one number. So first rows are summed.
    rows = values.float().flatten(0, -2)
    sums = rows.new_zeros(len(rows), classes)
    return sums.scatter_add(1, labels.flatten(0, -2), rows).sum(0, dtype=torch.float64)


def count_classes(logits: Tensor) -> int:
    """Classes of logits (N, K, H, W): K, or two for one logit."""
    return max(2, logits.shape[1])


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms of the classes' probabilities (N, classes, H, W), float32."""
    logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
    return logits.log_softmax(1)
