"""mmengine's own checkpoints on torch 2.6 and later, without running code that they might carry."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from fpn_neck.array_pickles import NumpyArray, reconstruct


def _history_method(cls: type, name: str) -> Callable:
    """What ``getattr`` may do inside a checkpoint: name HistoryBuffer's statistics."""
    if cls is not HistoryBuffer or name not in ("mean", "min", "max", "current"):
        raise UnpicklingError(f"a checkpoint may not look up {name!r} of {cls!r}")
    return getattr(cls, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine 0.10 itself writes.

    Its message hub holds HistoryBuffer objects, numpy arrays of numbers, and references to
    HistoryBuffer's own statistics. Everything else stays refused.
    """
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u1", "?")]
    named = [
        (_history_method, "builtins.getattr"),
        (NumpyArray, "numpy.ndarray"),
        # torch fills only objects of a class that is allowed; no file can know this name of it.
        (np.ndarray, f"numpy.ndarray.{secrets.token_hex()}"),
    ]
    for core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
        named += [
            (reconstruct, f"{core}.multiarray._reconstruct"),
            (scalar, f"{core}.multiarray.scalar"),
        ]
    torch.serialization.add_safe_globals([HistoryBuffer, np.dtype, *dtypes, *named])
