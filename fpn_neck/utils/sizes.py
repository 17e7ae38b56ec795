"""Sizes of maps that stay right in an export, where sizes are symbols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fpn_neck.utils.values import check_wholes

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


def sizes_are_numbers() -> bool:
    """Whether nothing records the calls; torch.compile makes a graph for each branch on sizes."""
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling())


def check_map_size(size: Sequence[int]) -> None:
    """Refuse anything but two whole numbers of at least 1; the symbols of an export pass.

    Raises:
        TypeError, ValueError: names the value and the rule.
    """
    if sizes_are_numbers() and len(check_wholes("size", size, 1)) != 2:
        raise ValueError(f"size={size!r}: expected (H, W)")


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of (N, C, H, W) to (N, C, *size).

    The same tensor if it has that size and nothing records the call.
    """
    if sizes_are_numbers() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)
