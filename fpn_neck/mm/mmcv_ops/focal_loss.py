"""Focal losses as ``mmcv._ext`` names and calls them.

Lin et al., ICCV 2017, eq. 5: ``FL = -a (1 - p)^gamma log(p)``, p is the probability of the true
class. mmcv does the reductions. `weight` holds a factor for each class, (C,), or is empty.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.mm.mmcv_ops.inputs import at_least_float32


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Overwrite `output` with one binary loss for each row and class.

    Args:
        input: logits, (N, C).
        target: class of each row, (N,) int64; any other number means background, where every class
            is a negative and no class weight applies.
        output: (N, C).
        alpha: factor of the positives; the negatives have ``1 - alpha``.
    """
    logits, factors = at_least_float32(input, weight)
    positive = _one_hot(target, input)
    logits = torch.where(positive, logits, -logits)  # of the true answer, yes or no
    loss = -(-logits).sigmoid().pow(gamma) * F.logsigmoid(logits)
    output.copy_(loss * _balance(positive, alpha, loss) * _class_factor(target, factors))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Overwrite `grad_input`, (N, C), with d loss / d logit; see `sigmoid_focal_loss_forward`."""
    logits, factors = at_least_float32(input, weight)
    positive = _one_hot(target, input)
    sign = positive.to(logits.dtype) * 2 - 1
    logits = logits * sign
    p, q = logits.sigmoid(), (-logits).sigmoid()
    slope = q.pow(gamma) * (gamma * p * F.logsigmoid(logits) - q)
    slope = slope * sign * _balance(positive, alpha, slope)
    grad_input.copy_(slope * _class_factor(target, factors))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Overwrite `output` with one loss for each row.

    Args:
        input: probabilities that sum to 1 in each row, (N, C).
        target: class of each row, (N,) int64; rows with a negative one are ignored.
        output: (N,).
        alpha: factor of all losses.

    Raises:
        ValueError: a target is not below C, on a CPU. On a GPU, where looking would wait for the
            device, torch's own assertion ends the process.
    """
    probs, factors = at_least_float32(input, weight)
    p, q = _true_class_probability(probs, target)
    loss = -alpha * q.pow(gamma) * p.log() * _class_factor(target, factors)[:, 0]
    output.copy_(loss.where(target >= 0, 0.0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Overwrite `grad_input`, (N, C), with d loss / d logit; see `softmax_focal_loss_forward`.

    `buff`, (N,), is overwritten with d loss / d log p, which the rows of the gradient share.
    """
    probs, factors = at_least_float32(input, weight)
    p, q = _true_class_probability(probs, target)
    slope = alpha * (gamma * q.pow(gamma - 1) * p * p.log() - q.pow(gamma))
    slope = slope * _class_factor(target, factors)[:, 0]
    slope = slope.where(target >= 0, 0.0)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (_one_hot(target, input).to(probs.dtype) - probs))


def _one_hot(target: Tensor, input: Tensor) -> Tensor:
    """(N, C) bool; all False in rows without a class."""
    return target[:, None] == torch.arange(input.shape[1], device=input.device)


def _balance(positive: Tensor, alpha: float, like: Tensor) -> Tensor:
    return torch.full_like(like, 1 - alpha).masked_fill(positive, alpha)


def _class_factor(target: Tensor, factors: Tensor) -> Tensor:
    """The factor of each row's class, (N, 1); 1 for rows without a class or without factors."""
    if len(factors) == 0:
        return factors.new_ones(len(target), 1)
    classified = (target >= 0) & (target < len(factors))
    return factors[target.where(classified, 0)].where(classified, 1.0)[:, None]


def _true_class_probability(probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the true class and its complement, (N,), above 0 for logarithm and power."""
    count = probs.shape[1]
    if target.device.type == "cpu" and not (target < count).all():
        raise ValueError(
            f"target: class {int(target.max())}: expected 0..{count - 1}, the columns of the "
            "logits, or a negative number, which is ignored"
        )
    p = probs.gather(1, target.clamp(min=0)[:, None])[:, 0]
    tiny = torch.finfo(p.dtype).tiny
    return p.clamp(min=tiny), (1 - p).clamp(min=tiny)
