"""Backward operators from forward functions in plain torch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of ``function(*tensors)`` by each of the tensors, which runs once more for them.

    They are zeros if the result does not depend on the tensors, as that of regions without samples.
    """
    leaves = [t.detach().requires_grad_() for t in tensors]
    with torch.enable_grad():
        output = function(*leaves)
    if not output.requires_grad:
        return tuple(torch.zeros_like(t) for t in leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
