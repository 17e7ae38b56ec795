"""Labels of pixels: what they must be, and how each device says that they are not."""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.utils.operators import operator


def check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check the labels of pixels.

    Raises:
        TypeError: ``target`` is not int64.
        ValueError: a label is neither in 0..num_classes - 1 nor ``ignore_index``.
    """
    check_dtype(target)
    labels = target.where(target != ignore_index, 0)
    _refuse(labels, num_classes, ignore_index)


def check_dtype(target: Tensor) -> None:
    """Raise TypeError unless labels are int64."""
    if target.dtype != torch.int64:
        raise TypeError(f"target is {target.dtype}; labels must be int64: target.long()")


def check_range(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check the labels of pixels, where those to ignore are 0 already; no device has to be awaited.

    On a GPU an assertion of the device fails, as in torch's own losses; its message says the rule.

    Raises:
        ValueError: a label is not in 0..num_classes - 1; on a GPU the process ends later.
    """
    if labels.device.type != "cuda":
        _refuse(labels, num_classes, ignore_index)
    elif labels.numel():
        least, most = labels.aminmax()
        torch._assert_async(
            (least >= 0) & (most < num_classes),
            f"a label is neither in 0..{num_classes - 1} nor ignore_index={ignore_index}; check "
            "the masks or num_classes; on the CPU the error names the label",
        )


@operator("checked_labels", "(Tensor target, SymInt num_classes, SymInt ignore_index) -> Tensor")
def checked_labels(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Labels with 0 for those to ignore; an operator, so that compiled code checks them too.

    Raises:
        ValueError: see `check_range`.
    """
    labels = target.where(target != ignore_index, 0)
    check_range(labels, num_classes, ignore_index)
    return labels


@torch.library.register_fake(checked_labels)
def _(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return torch.empty_like(target)


def _refuse(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    if not labels.numel():
        return
    for label in map(int, labels.aminmax()):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"target holds the label {label}; labels must be in 0..{num_classes - 1} or "
                f"ignore_index={ignore_index}; check the masks or num_classes"
            )
