"""A kernel and what it is started with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """One start of a kernel; the tests also compile it for GPUs that are not there.

    Attributes:
        kernel: a function of ``triton.jit``.
        grid: number of programs along up to three axes.
        arguments: in the kernel's order; the first is a tensor.
        constants: what the kernel is compiled for.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Tensor | int | float, ...]
    constants: dict[str, int | bool]

    def run(self) -> None:
        """Start it on the first tensor's device."""
        first = self.arguments[0]
        assert isinstance(first, Tensor)
        if first.is_cuda and first.get_device() != torch.cuda.current_device():
            with torch.cuda.device_of(first):
                self.kernel[self.grid](*self.arguments, **self.constants)
        else:  # a context takes two microseconds
            self.kernel[self.grid](*self.arguments, **self.constants)
