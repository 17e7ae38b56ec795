"""Functions as operators of torch, ``torch.ops.fpn_neck.*``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that computes with tensors an operator of torch; the decorator returns it.

    As ``torch.library.custom_op``, whose first call imports torch's compiler: a second and 230 MB,
    also in a program that compiles nothing.

    Args:
        schema: is written out, as older torch may not read annotations that are strings.
    """

    def register(function: Callable[..., Any]) -> Any:
        torch.library.define(f"fpn_neck::{name}", schema)
        torch.library.impl(f"fpn_neck::{name}", "default", function)
        return getattr(torch.ops.fpn_neck, name).default

    return register
