"""What mmengine's checkpoints hold beside tensors, as `torch.load` has to allow it by name.

mmengine 0.10.7 cannot read its own files on torch 2.6 and later, where ``weights_only=True`` is the
default. OneDL's 0.10.12 can, but it allows a file to call ``getattr`` of anything, and runs the
code of a file that it cannot read so.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from functools import partial
from pickle import UnpicklingError
from typing import Any

import numpy as np

from fpn_neck.weights.array_pickles import NumpyArray, reconstruct

_HISTORY_MODULE = "mmengine.logging.history_buffer"
_STATISTICS = ("mean", "min", "max", "current")


class HistoryBuffer:
    """Stands for mmengine's class of that name where mmengine is not imported.

    It holds what the file holds and computes nothing.
    """

    __module__ = _HISTORY_MODULE
    _log_history: np.ndarray
    _count_history: np.ndarray

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """The logged values and the number of samples behind each."""
        return self._log_history, self._count_history

    mean = min = max = current = None  # a file refers to the statistics


def _get_statistic(history: type, owner: type, name: str) -> Any:
    """What ``getattr`` does inside a checkpoint: it refers to HistoryBuffer's statistics."""
    if owner is not history or name not in _STATISTICS:
        raise UnpicklingError(f"a checkpoint may not look up {name!r} of {owner!r}")
    return getattr(history, name)


def allowed_objects() -> list[Callable | tuple[Callable, str]]:
    """Objects and their names in the file, for `torch.serialization.safe_globals`.

    mmengine's message hub holds HistoryBuffer objects, numpy arrays and numbers, and references to
    HistoryBuffer's own statistics. Everything else stays refused.

    Importing mmengine takes seconds. So its own HistoryBuffer is used only if it is imported.
    """
    history = getattr(sys.modules.get(_HISTORY_MODULE), "HistoryBuffer", HistoryBuffer)
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes: list[type] = [
        np.dtype,
        *(type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u1", "?")),
    ]
    allowed: list[Callable | tuple[Callable, str]] = [
        (history, f"{_HISTORY_MODULE}.HistoryBuffer"),
        (partial(_get_statistic, history), "builtins.getattr"),
        (NumpyArray, "numpy.ndarray"),
        # torch fills only objects of a class that is allowed; no file can know this name of it.
        (np.ndarray, f"numpy.ndarray.{secrets.token_hex()}"),
        *((t, f"{t.__module__}.{t.__qualname__}") for t in dtypes),
    ]
    for core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
        allowed += [
            (reconstruct, f"{core}.multiarray._reconstruct"),
            (scalar, f"{core}.multiarray.scalar"),
        ]
    return allowed
