"""Pickles of numpy arrays, as in detectron2's model zoo, read without running code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 pickles bytes for protocol 2 as ``_codecs.encode(text, 'latin1')``."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}, not 'latin1'")
    return text.encode("latin1")


class NumpyArray:
    """Stands for ``numpy.ndarray`` in a pickle: a class that cannot be called.

    ``numpy.ndarray(shape, "O", bytes)`` would take a file's bytes for addresses of objects.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        raise pickle.UnpicklingError("it calls numpy.ndarray itself")


_RECONSTRUCT: Any = np.array(0.0).__reduce__()[0]  # its module differs between numpy 1 and 2


def reconstruct(*_: Any) -> np.ndarray:
    """Stands for numpy's ``_reconstruct``: an empty array, which the pickle's state then fills."""
    return _RECONSTRUCT(np.ndarray, (0,), b"b")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): NumpyArray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


class ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers; everything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def load_array_pickle(path: Path, device: str | torch.device = "cpu") -> Any:
    """Read a pickle that holds plain containers and numpy arrays; arrays become tensors.

    Python 2 or 3 may have written it. The dtype of every array is kept.

    Raises:
        pickle.UnpicklingError: the file asks for anything but numpy arrays and OrderedDict.
        Exception: whatever else `pickle` raises on a file that is cut or not a pickle.
    """
    with path.open("rb") as file:
        return _to_tensors(ArrayUnpickler(file, encoding="latin1").load(), device)


def _to_tensors(content: Any, device: str | torch.device) -> Any:
    if isinstance(content, dict):
        return {k: _to_tensors(v, device) for k, v in content.items()}
    if isinstance(content, np.ndarray):
        # A copy, because a pickle's buffer may be read-only.
        return torch.from_numpy(content.copy()).to(device)
    return content
