"""Kernels for NVIDIA GPUs, in Triton: the neck's merge, label maps and losses.

Triton comes with torch on Linux. Nothing here imports it before it is needed.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch

_LEAST_CAPABILITY = (8, 0)  # the oldest GPU for which the tests compile the kernels


_found: bool | None = None


def available() -> bool:
    """Whether Triton is there and can run a kernel, on this machine's GPU or in its interpreter.

    The first call on a GPU compiles and runs a small kernel (about a second, then cached on disk).
    In the middle of the capture of a CUDA graph that is not possible: what is captured then,
    without a call before, has torch's operators.
    """
    global _found
    if _found is None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False
        _found = _find()
    return _found


def _find() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability() >= _LEAST_CAPABILITY and _runs()


def _runs() -> bool:
    """Whether a kernel runs: Triton needs a C compiler and Python's headers, too."""
    try:
        from fpn_neck.fast.cuda.trial import trial

        # Modes of the caller (fake tensors, ...) belong to its thread.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(trial, torch.cuda.current_device()).result()
    except Exception as error:  # whatever it is, torch's operators do the work
        warnings.warn(
            f"Triton is installed but can't run a kernel: {type(error).__name__}: {error}. "
            "Neck, head, losses and label maps take torch's operators, which are slower. Install "
            "a C compiler (gcc) and Python's headers.",
            stacklevel=3,
        )
        return False
    return True


__all__ = ["available"]
