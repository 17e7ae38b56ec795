"""detectron2's model zoo files: pickles of numpy arrays, read without running code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for protocol 2: ``_codecs.encode(text, 'latin1')``."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"a file of arrays has no use for the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.array(0.0).__reduce__()[0]
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def load_array_pickle(path: Path) -> Any:
    """Read a pickle that holds plain containers and numpy arrays; arrays become CPU tensors.

    Written by Python 2 or 3. The dtype of every array is kept.

    Raises:
        pickle.UnpicklingError: the file asks for anything but numpy arrays and OrderedDict.
        Exception: whatever else `pickle` raises on a file that is cut or no pickle.
    """
    with path.open("rb") as file:
        return _to_tensors(_ArrayUnpickler(file, encoding="latin1").load())


def _to_tensors(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _to_tensors(v) for k, v in content.items()}
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())  # a pickle's buffer may be read-only
    return content
