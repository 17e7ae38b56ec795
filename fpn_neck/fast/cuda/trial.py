"""The smallest kernel: whether Triton can compile and start one here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _count(numbers):
    tl.store(numbers + tl.program_id(0), tl.program_id(0))


def trial(device: int) -> None:
    """Run a kernel on that GPU.

    Raises:
        RuntimeError: its result is wrong. Triton raises many other errors.
    """
    numbers = torch.full((2,), -1, dtype=torch.int32, device=f"cuda:{device}")
    with torch.cuda.device(device):
        _count[(2,)](numbers)
    if numbers.tolist() != [0, 1]:
        raise RuntimeError(f"a kernel wrote {numbers.tolist()} instead of [0, 1]")
