"""New maps, in a chosen layout, on pages that are cheap to get."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch
from torch import Tensor

HUGE_PAGE, MADV_HUGEPAGE = 1 << 21, 14  # Linux


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """float32 for the short ones: sooner on most processors, and it rounds once, at the end."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def new_map(like: Tensor, channels: int, channels_last: bool, dtype: torch.dtype) -> Tensor:
    """Uninitialised (N, channels, H, W), of ``like``'s N, H and W."""
    last = channels_last and channels > 1  # one channel is in both layouts; take one
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (like.shape[0], channels, *like.shape[-2:])
    out = torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)
    _advise(out.data_ptr(), out.nbytes)
    return out


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors on the CPU are equal to the bit, and in dtype and layout too.

    Half the time of torch.equal, and it wakes none of torch's threads (see workers.py).
    """
    if a.dtype != b.dtype or a.shape != b.shape or a.stride() != b.stride():
        return False
    if not _libc():
        return torch.equal(a, b)
    pointers = ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(b.data_ptr())
    return _libc().memcmp(*pointers, ctypes.c_size_t(a.nbytes)) == 0


def _advise(start: int, size: int) -> None:
    """Ask for huge pages, as numpy does for its large arrays.

    Every large map is fresh memory, and to get 60 MB by pages of 4 kB takes about 20 ms.
    """
    first, end = -(-start // HUGE_PAGE) * HUGE_PAGE, (start + size) // HUGE_PAGE * HUGE_PAGE
    if end > first and sys.platform == "linux":
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_HUGEPAGE)


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if os.name == "posix" else None
