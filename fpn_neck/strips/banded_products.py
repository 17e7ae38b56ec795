"""Rows and columns of maps resized by products with small matrices, see `Taps.blocks`.

On a CPU this takes less time than torch's resizing, and its gradient a tenth of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.strips.bilinear_taps import Taps


def mix_rows(x: Tensor, taps: Taps) -> Tensor:
    """(N, C, inputs, W) -> (N, C, outputs, W)."""
    flat = x.reshape(-1, *x.shape[2:])
    mixed = x.new_empty(len(flat), len(taps), x.shape[3])
    for outputs, inputs, weights in taps.blocks(x):
        torch.bmm(_for_each(weights, flat), flat[:, inputs], out=mixed[:, outputs])
    return mixed.view(*x.shape[:2], len(taps), x.shape[3])


def unmix_rows(grad: Tensor, taps: Taps) -> Tensor:
    """Gradient of `mix_rows`: (N, C, outputs, W) -> (N, C, inputs, W)."""
    flat = grad.reshape(-1, *grad.shape[2:])
    unmixed = grad.new_zeros(len(flat), taps.inputs, grad.shape[3])
    for outputs, inputs, weights in taps.blocks(grad):
        unmixed[:, inputs].baddbmm_(_for_each(weights.t(), flat), flat[:, outputs])
    return unmixed.view(*grad.shape[:2], taps.inputs, grad.shape[3])


def mix_columns(x: Tensor, taps: Taps) -> Tensor:
    """(N, C, H, inputs) -> (N, C, H, outputs)."""
    flat = x.reshape(-1, x.shape[3])
    mixed = x.new_empty(len(flat), len(taps))
    for outputs, inputs, weights in taps.blocks(x):
        torch.mm(flat[:, inputs], weights.t(), out=mixed[:, outputs])
    return mixed.view(*x.shape[:3], len(taps))


def unmix_columns(grad: Tensor, taps: Taps) -> Tensor:
    """Gradient of `mix_columns`: (N, C, H, outputs) -> (N, C, H, inputs)."""
    flat = grad.reshape(-1, grad.shape[3])
    unmixed = grad.new_zeros(len(flat), taps.inputs)
    for outputs, inputs, weights in taps.blocks(grad):
        unmixed[:, inputs].addmm_(flat[:, outputs], weights)
    return unmixed.view(*grad.shape[:3], taps.inputs)


def _for_each(weights: Tensor, maps: Tensor) -> Tensor:
    return weights.expand(len(maps), *weights.shape)
