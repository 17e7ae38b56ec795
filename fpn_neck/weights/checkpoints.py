"""Reading checkpoints without running code that they might carry."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Where frameworks keep the weights in a training checkpoint, and what wrappers put before a name.
_CONTAINERS = ("state_dict", "model", "state_dict_ema", "model_ema")
_PREFIX = "module."
_COUNTER = "num_batches_tracked"
_SHOWN = 3  # names and shapes of each kind of difference


def load_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint file on the CPU with ``weights_only=True``.

    ``.safetensors``, and ``.pkl`` files of numpy arrays (detectron2's model zoo), are read too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable checkpoint, or a pickle that needs code to run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl":
            from fpn_neck.weights.array_pickles import load_array_pickle

            return load_array_pickle(path)
        if find_spec("mmengine"):
            from fpn_neck.weights.mmengine_files import load_local

            return load_local(path, "cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises nearly anything on a file that is cut or no checkpoint
        raise ValueError(
            f"checkpoint {path} cannot be read as plain tensors ({why_not_read(e)}); files that "
            "need arbitrary code are refused: save a state_dict, or fetch the file again if it is "
            "truncated"
        ) from e


def why_not_read(error: Exception) -> str:
    """What a file asks for that torch refuses, without its advice on how to run it; else line 1."""
    text = str(error).strip() or type(error).__name__
    refused = text.partition("WeightsUnpickler error:")[2].strip().splitlines()
    blocked = [line for line in text.splitlines() if "GLOBAL" in line]
    return (refused or blocked or text.splitlines())[0].split(". ")[0]


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


def fitting(
    model: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    name: str,
    *,
    allow_mismatch: bool = False,
    warn: Callable[[str], object] = warnings.warn,
) -> dict[str, Tensor]:
    """The weights that a model can take: all of them, or a refusal before anything is loaded.

    Args:
        model: the model's own ``state_dict()``.
        state_dict: the weights to load.
        name: of the checkpoint, for the message.
        allow_mismatch: take what fits in name and shape, and tell ``warn`` what is left out.

    Raises:
        ValueError: tensors are missing, left over, or of another shape; names the first few of
            each. With ``allow_mismatch``: nothing fits.
    """
    text = differences(model, state_dict)
    if text and not allow_mismatch:
        raise ValueError(
            f"checkpoint {name} is of another model: {text}; use its own config (train, test and "
            "predict load the rest with --allow-mismatch)"
        )
    fits = {k: v for k, v in state_dict.items() if k in model and model[k].shape == v.shape}
    if not fits:
        raise ValueError(f"checkpoint {name}: nothing of it fits: {text}; use its own config")
    if text:
        warn(f"checkpoint {name}: {len(fits)} tensors loaded; {text}")
    return fits


def differences(model: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> str:
    """What keeps weights from fitting a model, in one line with the first few names and shapes.

    Empty where they fit. Batch norm's counters may be missing; torch then starts them at 0.
    """
    own = {k: f"{k} {tuple(v.shape)}" for k, v in model.items()}
    given = {k: f"{k} {tuple(v.shape)}" for k, v in state_dict.items()}
    found = {
        "missing": [own[k] for k in own if k not in given and not k.endswith(_COUNTER)],
        "left over": [given[k] for k in given if k not in own],
        "of another shape": [
            f"{given[k]} for {tuple(v.shape)}"
            for k, v in model.items()
            if k in given and state_dict[k].shape != v.shape
        ],
    }
    return "; ".join(f"{len(v)} {what}{_first_few(v)}" for what, v in found.items() if v)


def _first_few(lines: list[str]) -> str:
    """``: a (1,), b (2,)``, or where there are more, how many in which part of the model too."""
    if len(lines) <= _SHOWN:
        return f": {', '.join(lines)}"
    parts = Counter(line.split(".")[0] for line in lines)
    counts = ", ".join(f"{part} {count}" for part, count in parts.most_common(_SHOWN))
    return f" ({counts}): {', '.join(lines[:_SHOWN])} and {len(lines) - _SHOWN} more"
