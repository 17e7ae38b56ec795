"""Reading checkpoints without running code that they might carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Where frameworks keep the weights in a training checkpoint, and what wrappers put before a name.
_CONTAINERS = ("state_dict", "model", "state_dict_ema", "model_ema")
_PREFIX = "module."


def load_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint file on the CPU with ``weights_only=True``.

    ``.safetensors``, and ``.pkl`` files of numpy arrays (detectron2's model zoo), are read too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable checkpoint, or a pickle that needs code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl":
            from fpn_neck.array_pickles import load_array_pickle

            return load_array_pickle(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises nearly anything on a file that is cut or no checkpoint
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
        isinstance(k, str) and isinstance(v, Tensor) for k, v in checkpoint.items()
    ):
        raise ValueError(
            f"no state_dict found; expected a mapping of names to tensors, or one of {_CONTAINERS}"
        )
    return {
        k.removeprefix(_PREFIX): v
        for k, v in checkpoint.items()
        if isinstance(k, str) and isinstance(v, Tensor)
    }


def check_fit(model: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights of another model before anything is loaded.

    Args:
        model: the model's own ``state_dict()``.
        state_dict: the weights to load.
        name: of the checkpoint, for the message.

    Raises:
        ValueError: tensors are missing, left over, or of another shape; names the first few.
    """
    findings = {
        "missing": [k for k in model if k not in state_dict],
        "left over": [k for k in state_dict if k not in model],
        "of another shape": [
            f"{k} {tuple(state_dict[k].shape)} for {tuple(v.shape)}"
            for k, v in model.items()
            if k in state_dict and state_dict[k].shape != v.shape
        ],
    }
    text = "; ".join(f"{len(v)} {what}, e.g. {v[0]}" for what, v in findings.items() if v)
    if text:
        raise ValueError(f"checkpoint {name} is of another model: {text}; use its own config")
