"""The attention maps of PSANet as ``mmcv._ext`` names and calls them.

Zhao et al., ECCV 2018. Every cell of a feature map has a mask of h_mask x w_mask weights for the
cells round it. ``collect`` puts a cell's weights where their targets are, ``distribute`` the other
way round (mmcv 2.1, ``csrc/pytorch/cpu/psamask.cpp``).

Shapes: input (N, h_mask * w_mask, H, W); output (N, H * W, H, W).
"""

import torch
from torch import Tensor

COLLECT = 0  # else distribute


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the weights into `output`, which mmcv gives as zeros."""
    size, mask, half = (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask)
    weight, cell, target = _pairs(size, mask, half, input.device)
    maps = output.view(num_, h_feature * w_feature, h_feature * w_feature)
    rows, columns = (target, cell) if psa_type == COLLECT else (cell, target)
    maps[:, rows, columns] = input.flatten(2)[:, weight, cell]


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient into `grad_input`, which mmcv gives as zeros."""
    size, mask, half = (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask)
    weight, cell, target = _pairs(size, mask, half, grad_output.device)
    rows, columns = (target, cell) if psa_type == COLLECT else (cell, target)
    maps = grad_output.flatten(2)
    weights = grad_input.view(num_, h_mask * w_mask, h_feature * w_feature)
    weights[:, weight, cell] = maps[:, rows, columns]


def _pairs(
    size: tuple[int, int], mask: tuple[int, int], half: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the weight, the cell and its target, for every target inside the map."""
    y, x = (torch.arange(n, device=device) for n in size)
    i, j = (torch.arange(n, device=device) for n in mask)
    rows = y + i[:, None] - half[0]  # (h_mask, H)
    columns = x + j[:, None] - half[1]  # (w_mask, W)
    inside_rows = (rows >= 0) & (rows < size[0])
    inside_columns = (columns >= 0) & (columns < size[1])
    inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]
    i, j, y, x = inside.nonzero().unbind(1)
    target = rows[i, y] * size[1] + columns[j, x]
    return i * mask[1] + j, y * size[1] + x, target
