"""Sizes of maps that stay right in an export, where sizes are symbols."""

from __future__ import annotations

import torch

# torch 2.6 has no is_exporting(); there, compiled models take the way of exported ones.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def ceil_div(length: int, divisor: int) -> int:
    """``ceil(length / divisor)`` of sizes >= 0.

    Not ``-(-length // divisor)``: ONNX truncates where Python rounds down.
    """
    return (length + divisor - 1) // divisor


def may_branch_on_sizes() -> bool:
    """Whether code may depend on sizes: a trace or an export keeps one branch for all sizes."""
    return not (torch.jit.is_tracing() or _is_exporting())
