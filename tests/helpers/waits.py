"""Counts where Python would wait for a GPU, on any device."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or the size of it, Python needs; and those of Tensor that don't dispatch.
_OPERATORS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
_METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.waits.operators.append(name)
        self.waits.count += name in _OPERATORS or name == "aten::index" and _has_mask(args[1])
        return func(*args, **kwargs or {})


def _has_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class Waits(TorchFunctionMode):
    """A context that counts reads of tensors' values by Python.

    Each would be a wait on a GPU: ``item``, ``bool``, ``tolist``, ``cpu``, a mask as index, ...

    Attributes:
        count: number of waits.
        operators: names of all operators that ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.operators: list[str] = []
        self._below = _Operators(self)

    def __enter__(self) -> Waits:
        super().__enter__()
        self._below.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._below.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in _METHODS
        return func(*args, **kwargs or {})
