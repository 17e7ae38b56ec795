"""mmengine's own checkpoints on torch 2.6 and later, without running code that they might carry."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from fpn_neck.weights.array_pickles import NumpyArray, reconstruct


def _history_method(cls: type, name: str) -> Callable:
    """What ``getattr`` may do inside a checkpoint: name HistoryBuffer's statistics."""
    if cls is not HistoryBuffer or name not in ("mean", "min", "max", "current"):
        raise UnpicklingError(f"a checkpoint may not look up {name!r} of {cls!r}")
    return getattr(cls, name)


def allowed_objects() -> list:
    """What mmengine 0.10 writes beside tensors, by the names it is written under.

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
    return [HistoryBuffer, np.dtype, *dtypes, *named]


def load_local(filename: str | Path, map_location: Any = None) -> Any:
    """`torch.load` of a file that mmengine may have written; other objects are refused.

    mmengine 0.10.7 can't read its own files on torch 2.6 and later. OneDL's 0.10.12 can, but lets
    a file call ``getattr`` of anything, and runs what it can't read that way.

    Raises:
        FileNotFoundError: no such file.
        pickle.UnpicklingError: an object that is not allowed.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    with torch.serialization.safe_globals(allowed_objects()):
        return torch.load(path, map_location=map_location, weights_only=True)


def load_mmengines_checkpoints_here() -> None:
    """Let all of mmengine, mmdet and mmseg read local files by `load_local`."""
    CheckpointLoader.register_scheme(prefixes="", loader=load_local, force=True)
