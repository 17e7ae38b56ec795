"""mmseg's losses as sums over pixels."""

from __future__ import annotations

from mmseg.models import losses
from torch import nn

from fpn_neck.losses import CrossEntropyLoss, PixelLoss


def as_pixel_loss(module: nn.Module) -> PixelLoss | None:
    """A loss that computes what ``module`` does, or None where there is none.

    For mmseg's CrossEntropyLoss that is softmax with the mean taken (mmseg 1.2,
    ``losses/cross_entropy_loss.py``).
    """
    if isinstance(module, PixelLoss):
        return module
    if type(module) is not losses.CrossEntropyLoss:
        return None
    binary = module.use_sigmoid or module.use_mask
    # Weighted, with avg_non_ignore=False, mmseg looks up the ignored label's weight.
    looks_up = module.class_weight is not None and not module.avg_non_ignore
    if binary or looks_up or module.reduction != "mean":
        return None
    return CrossEntropyLoss(
        module.class_weight, avg_non_ignore=module.avg_non_ignore, loss_weight=module.loss_weight
    )
