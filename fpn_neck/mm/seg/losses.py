"""mmseg's losses as sums over pixels."""

from __future__ import annotations

from typing import Any

from mmseg.models import losses
from torch import nn

from fpn_neck.losses import CrossEntropyLoss, PixelLoss


def as_pixel_loss(module: nn.Module) -> PixelLoss | None:
    """The pixel loss that equals ``module``, or None if there is none.

    For mmseg's CrossEntropyLoss that is softmax with the mean taken (mmseg 1.2,
    ``losses/cross_entropy_loss.py``).
    """
    if isinstance(module, PixelLoss):
        return module
    if type(module) is not losses.CrossEntropyLoss:
        return None
    loss: Any = module  # mmseg comes without types
    is_binary = loss.use_sigmoid or loss.use_mask
    # With class weights and avg_non_ignore=False, mmseg uses a weight for the ignored label too.
    weights_ignored = loss.class_weight is not None and not loss.avg_non_ignore
    if is_binary or weights_ignored or loss.reduction != "mean":
        return None
    return CrossEntropyLoss(
        loss.class_weight, avg_non_ignore=loss.avg_non_ignore, loss_weight=loss.loss_weight
    )
