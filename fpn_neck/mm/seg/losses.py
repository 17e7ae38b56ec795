"""mmseg's losses as sums over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from mmseg.models import losses
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import cross_entropy_loss
from torch import nn

from fpn_neck.fast.eligible import has_global_hooks, is_unmodified, keeps
from fpn_neck.strips.losses import CrossEntropyLoss
from fpn_neck.strips.pixel_loss import PixelLoss

# Attributes of mmseg's CrossEntropyLoss.
_SETTINGS = (
    "use_mask", "use_sigmoid", "class_weight", "avg_non_ignore", "reduction", "loss_weight",
    "cls_criterion",
)  # fmt: skip
_CRITERIA = (cross_entropy_loss.cross_entropy, cross_entropy_loss.binary_cross_entropy)


def decode_losses(head: Any) -> list[Any]:  # mmseg comes without types
    """The losses of one of mmseg's decode heads."""
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def check_one_logit(head: Any, warn: Callable[[str], object] | None = None) -> None:
    """Refuse a loss that does not tell labels 0 and 1 apart by one logit, or confuses them.

    A softmax over one logit is always 1. mmseg's DiceLoss takes one logit for that of label 0,
    which the sigmoid and the threshold of a prediction take for that of label 1.

    Args:
        head: a decode head of mmseg.
        warn: is told of all but the softmax, instead of an error: a trained model may have had
            another loss beside it.

    Raises:
        ValueError: names the loss and the remedy.
    """
    for loss in decode_losses(head) if head.out_channels == 1 else ():
        if type(loss) is losses.CrossEntropyLoss and not (loss.use_sigmoid or loss.use_mask):
            raise ValueError(
                "loss_decode: CrossEntropyLoss with use_sigmoid=False on one logit (out_channels=1)"
                " is a softmax over one class and does not train; set use_sigmoid=True"
            )
        right, wrong = _of_right_and_wrong(loss, head.ignore_index)
        if right < wrong:
            continue
        text = (
            f"loss_decode: {type(loss).__name__} on one logit (out_channels=1) is {right:.3f} for "
            f"right labels and {wrong:.3f} for opposite ones; take dict(type='CrossEntropyLoss', "
            "use_sigmoid=True), or fpn_neck.DiceLoss in fpn_neck.FPNHead"
        )
        if warn is None:
            raise ValueError(text)
        warn(text)


@torch.no_grad()
def _of_right_and_wrong(loss: nn.Module, ignore_index: int) -> tuple[float, float]:
    """A loss of sure logits that are all right, and all wrong; (0, 1) if it is not known."""
    if isinstance(loss, PixelLoss):
        return 0.0, 1.0
    labels = torch.tensor([[[0, 1], [0, 1]]])
    logits = (labels * 10.0 - 5)[:, None]
    try:
        both = [
            float(loss(sign * logits, labels, weight=None, ignore_index=ignore_index).sum())
            for sign in (1, -1)
        ]
    except Exception:  # of any loss; the first step tells it
        return 0.0, 1.0
    return both[0], both[1]


def check_decode_head(model: Any) -> None:
    """`check_one_logit` for the head of a segmenter that predicts; auxiliary ones only train.

    Raises:
        ValueError: names the loss.
    """
    head = getattr(getattr(model, "module", model), "decode_head", None)
    if isinstance(head, BaseDecodeHead):
        try:
            check_one_logit(head)
        except ValueError as e:
            raise ValueError(f"config: model.decode_head.{e}") from e


def as_pixel_loss(module: nn.Module, one_logit: bool = False) -> PixelLoss | None:
    """The pixel loss that equals ``module``, or None if there is none.

    For mmseg's CrossEntropyLoss that is softmax with the mean taken (mmseg 1.2,
    ``losses/cross_entropy_loss.py``).

    Args:
        module: one of mmseg's losses, or ours.
        one_logit: the loss is a sigmoid's on the logit z; the result takes the logits (0, z).
    """
    if not is_unmodified(module) or has_global_hooks():
        return None
    if isinstance(module, PixelLoss):
        return module if keeps(module, PixelLoss, "forward") else None
    if type(module) is not losses.CrossEntropyLoss:
        return None
    loss: Any = module  # mmseg comes without types
    if loss.use_mask or loss.use_sigmoid != one_logit or loss.cls_criterion not in _CRITERIA:
        return None
    if one_logit and loss.class_weight is not None:  # a factor of class 1 only
        return None
    # With class weights and avg_non_ignore=False, mmseg uses a weight for the ignored label too.
    weights_ignored = loss.class_weight is not None and not loss.avg_non_ignore
    if weights_ignored or loss.reduction != "mean":
        return None
    return CrossEntropyLoss(
        loss.class_weight, avg_non_ignore=loss.avg_non_ignore, loss_weight=loss.loss_weight
    )


def log_odds(threshold: float) -> float:
    """The logit whose sigmoid is the threshold; finite for 0 and 1 too."""
    tiny = torch.finfo(torch.float32).tiny
    return math.log(max(threshold, tiny) / max(1 - threshold, tiny))


def _settings(module: Any, one_logit: bool) -> tuple:
    """What `as_pixel_loss` depends on."""
    values = (_copied(vars(module).get(name)) for name in _SETTINGS)
    return module, one_logit, is_unmodified(module), has_global_hooks(), *values


def _copied(setting: Any) -> Any:
    """A setting that stays what it is now: class weights can be a list, an array or a tensor."""
    if hasattr(setting, "tolist"):
        return setting.tolist()
    return list(map(float, setting)) if isinstance(setting, (list, tuple)) else setting


class PixelLosses:
    """The pixel losses that equal a head's losses; made again if one of the losses has changed.

    A setting can change in place, so copies are compared.
    """

    def __init__(self) -> None:
        self._made: list[tuple[tuple, PixelLoss | None]] = []

    def __call__(self, modules: list[Any], one_logit: bool) -> list[PixelLoss | None]:
        """See `as_pixel_loss`, for each of ``modules``."""
        settings = [_settings(module, one_logit) for module in modules]
        if settings != [made for made, _ in self._made]:
            losses = [as_pixel_loss(module, one_logit) for module in modules]
            self._made = list(zip(settings, losses, strict=True))
        return [loss for _, loss in self._made]
