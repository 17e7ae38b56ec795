"""Operators of torch that go from the logits of cells to the sums of pixels that losses need.

torch.compile, torch.export, autocast and CUDA graphs see one operator, ``torch.ops.fpn_neck.*``,
whatever it does inside: Triton's kernels on a GPU, torch's operators on strips elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.losses import loss_grad, loss_sums
from fpn_neck.fast.eligible import may_take_triton, takes_triton
from fpn_neck.strips import class_sums as strips
from fpn_neck.strips.bilinear_taps import Taps
from fpn_neck.strips.labels import check_range
from fpn_neck.utils.operators import operator

_DENSE = {"p", "all_p", "all_log_p"}  # their gradient needs a sum over the classes


_OPTIONS = "SymInt ignore_index, bool align_corners, str reads"


@operator("class_sums", f"(Tensor logits, Tensor target, {_OPTIONS}) -> (Tensor, Tensor)")
def class_sums(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, reads: str
) -> tuple[Tensor, Tensor]:
    """`fpn_neck.strips.pixel_loss.ClassSums` of the logits, resized to the labels.

    Args:
        logits: (N, K, h, w), floating point, K > 1.
        target: (N, H, W), int64 labels in 0..K-1 or ``ignore_index``.
        align_corners: as in `torch.nn.functional.interpolate`.
        reads: names of the sums that are wanted, see `fpn_neck.strips.pixel_loss.ClassLoss`.

    Returns:
        sums: (6, K), float64, in the order of `fpn_neck.strips.pixel_loss.ClassSums`.
        lse: for Triton's backward pass (N, H, W), float32, the logarithm of every pixel's sum of
            ``exp(logit)``; without Triton empty.

    Raises:
        ValueError: a label is out of range; on a GPU see `fpn_neck.strips.labels.check_range`.
    """
    names = frozenset(reads.split())
    if not takes_triton(logits):
        lse = _new_lse(logits, target)
        sums = strips.class_sums(
            logits, target, ignore_index, align_corners, names, lse if lse.numel() else None
        )
        return sums, lse
    check_range(target.where(target != ignore_index, 0), logits.shape[1], ignore_index)
    return loss_sums(
        logits,
        target,
        *_axes(logits, target, align_corners),
        ignore_index=ignore_index,
        dense=not names.isdisjoint({"all_p", "all_log_p"}),
    )


@torch.library.register_fake(class_sums)
def _(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, reads: str
) -> tuple[Tensor, Tensor]:
    sums = logits.new_empty((6, logits.shape[1]), dtype=torch.float64)
    return sums, _new_lse(logits, target)


def _axes(logits: Tensor, target: Tensor, align_corners: bool) -> tuple[Axis, Axis]:
    """Of rows and columns."""
    (h, w), (height, width) = logits.shape[2:], target.shape[1:]
    rows, columns = Taps.linear(h, height, align_corners), Taps.linear(w, width, align_corners)
    return rows.axis(logits.device), columns.axis(logits.device)


def _new_lse(logits: Tensor, target: Tensor) -> Tensor:
    shape = target.shape if may_take_triton(logits) else (0,)
    return logits.new_empty(shape, dtype=torch.float32)


@operator(
    "class_sums_backward",
    f"(Tensor derivatives, Tensor logits, Tensor target, Tensor lse, {_OPTIONS}) -> Tensor",
)
def class_sums_backward(
    derivatives: Tensor,
    logits: Tensor,
    target: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
    reads: str,
) -> Tensor:
    """Gradient of the logits, given a scalar's derivatives by the sums (6, K); see `class_sums`."""
    names = frozenset(reads.split())
    if not takes_triton(logits):
        return strips.class_sums_backward(
            derivatives, logits, target, ignore_index, align_corners, names
        )
    rows, columns = _axes(logits, target, align_corners)
    dense = not names.isdisjoint(_DENSE)
    return loss_grad(logits, target, rows, columns, lse, derivatives, dense=dense)


@torch.library.register_fake(class_sums_backward)
def _(
    derivatives: Tensor,
    logits: Tensor,
    target: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
    reads: str,
) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    logits, target, *ctx.options = inputs
    ctx.save_for_backward(logits, target, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, derivatives: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grad = None
    if derivatives is not None:
        grad = class_sums_backward(derivatives, *ctx.saved_tensors, *ctx.options)
    return grad, None, None, None, None


def _refuse(ctx: Any, _: Tensor) -> None:
    raise RuntimeError(
        "losses at the labels' size are differentiable once; their gradient was differentiated "
        "(twice in all). Take loss(resize(logits, target.shape[1:]), target)"
    )


torch.library.register_autograd(class_sums, _backward, setup_context=_keep)
torch.library.register_autograd(class_sums_backward, _refuse)
