"""Reading checkpoints without running code that they might carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Where frameworks keep the weights in a training checkpoint, and what wrappers put before a name.
_CONTAINERS = ("state_dict", "model", "state_dict_ema", "model_ema")
_PREFIX = "module."


def load_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint file on the CPU with ``weights_only=True`` (or safetensors).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable checkpoint, or a pickle that needs code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        reason = str(e).strip().split("\n")[0]
        raise ValueError(
            f"checkpoint {path} cannot be read as plain tensors ({reason}); files that need "
            "arbitrary code are refused: save a state_dict, or fetch the file again if it is "
            "truncated"
        ) from e


def find_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """The name -> tensor mapping inside a training checkpoint, ``module.`` prefixes taken off.

    Raises:
        ValueError: there is none.
    """
    for name in _CONTAINERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if not isinstance(checkpoint, Mapping) or not any(
        isinstance(v, Tensor) for v in checkpoint.values()
    ):
        raise ValueError(
            f"no state_dict found; expected a mapping of names to tensors, or one of {_CONTAINERS}"
        )
    return {k.removeprefix(_PREFIX): v for k, v in checkpoint.items() if isinstance(v, Tensor)}
