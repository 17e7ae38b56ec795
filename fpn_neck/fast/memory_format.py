"""Memory formats of maps, contiguous (NCHW) and channels_last (NHWC), and their precision."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether it is in channels_last and not also contiguous (one channel or one pixel is both)."""
    if x.dim() != 4 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def in_layout_of(x: Tensor, like: Tensor) -> Tensor:
    """``x``, made contiguous if ``like`` is contiguous."""
    return x.contiguous() if like.is_contiguous() else x


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision: faster on most processors, and rounded only once, at the end."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def is_half(x: Tensor) -> bool:
    """Whether a convolution of ``x`` computes in half precision, by autocast or by its dtype."""
    if x.dtype.itemsize < 4:
        return True
    if not torch._C._is_any_autocast_enabled():  # takes a fifth of the time of asking by name
        return False
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # there is no autocast for meta
        return False
    return torch.get_autocast_dtype(kind).itemsize < 4
