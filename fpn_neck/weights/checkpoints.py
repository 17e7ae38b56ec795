"""Checkpoint files: read without running code, and compared with the model that takes them."""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fpn_neck.utils.text import first_few

if TYPE_CHECKING:
    from torch.serialization import MAP_LOCATION

# Where frameworks keep the weights in a training checkpoint, and what wrappers put before a name.
_CONTAINERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
)
_PREFIX = "module."
# Torch's own wrappers (torch.compile, FSDP, activation checkpointing), at any place of a name.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What torch's and mmengine's averages of a model count, beside its weights under `module.`.
_AVERAGED = ("n_averaged", "steps")
_COUNTER = "num_batches_tracked"
_ALLOWED = threading.Lock()  # torch keeps one list of allowed objects for all threads
CONFIG_SUFFIXES = {".py", ".json", ".yaml", ".yml"}
_SHOWN = 3  # names and shapes of each kind of difference


@dataclass(frozen=True)
class Checkpoint:
    """A file that has been read; as a text it is its name."""

    name: str
    content: Any

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """See `load_checkpoint`."""
        return cls(str(path), load_checkpoint(path))

    def __str__(self) -> str:
        return self.name


def load_checkpoint(path: str | Path, map_location: MAP_LOCATION = "cpu") -> Any:
    """Load a checkpoint file without running code that it might carry.

    It reads files of `torch.save` with ``weights_only=True``, mmengine's checkpoints among them
    (mmengine need not be installed), ``.safetensors`` files, and ``.pkl`` files of numpy arrays
    (detectron2's model zoo).

    Args:
        path: a local file; ``~`` is the home folder.
        map_location: the device of the tensors, or what else `torch.load` takes for files of
            `torch.save`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable checkpoint, or a pickle that needs code to run.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"checkpoint {path} is a folder: name a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    if path.suffix in CONFIG_SUFFIXES:
        raise ValueError(f"checkpoint {path} is a config: name a checkpoint")
    try:
        return _read(path, map_location)
    except Exception as e:  # torch raises nearly anything on a file that is cut or no checkpoint
        raise ValueError(
            f"checkpoint {path} cannot be read as plain tensors ({_reason(e)}); files that need "
            "arbitrary code are refused: save a state_dict, or fetch the file again if it is "
            "truncated"
        ) from e


def _read(path: Path, map_location: MAP_LOCATION) -> Any:
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path, device=str(device))
    if path.suffix == ".pkl":
        from fpn_neck.weights.array_pickles import load_array_pickle

        return load_array_pickle(path, device)
    if not find_spec("numpy"):  # torch does not require it; mmengine does
        return torch.load(path, map_location=map_location, weights_only=True)
    from fpn_neck.weights.mmengine_files import allowed_objects

    with _ALLOWED, torch.serialization.safe_globals(allowed_objects()):
        return torch.load(path, map_location=map_location, weights_only=True)


def _reason(error: Exception) -> str:
    """What a file asks for that torch refuses, without torch's advice to allow it; else line 1."""
    text = str(error).strip() or type(error).__name__
    refused = text.partition("WeightsUnpickler error:")[2].strip().splitlines()
    blocked = [line for line in text.splitlines() if "GLOBAL" in line]
    return (refused or blocked or text.splitlines())[0].split(". ")[0]


def find_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """The mapping of names to tensors inside a checkpoint, without torch's wrappers in the names.

    These are ``_orig_mod.`` of `torch.compile`, ``_fsdp_wrapped_module.`` and
    ``_checkpoint_wrapped_module.`` anywhere in a name, and one ``module.`` before it. Left out are
    the counter of torch's ``AveragedModel`` and mmengine's averages, and the buffers in which
    mmcv 1 keeps the weights that are not averaged (``ema_backbone_conv1_weight``).

    The mapping is the checkpoint itself, one of those that frameworks name, such as
    ``state_dict``, or the only one inside, under any name.

    Raises:
        ValueError: the checkpoint holds no such mapping, or several of unknown names, or two of its
            names are the same without the wrappers.
    """
    checkpoint = _weights_in(checkpoint)
    tensors = {k: v for k, v in checkpoint.items() if isinstance(k, str) and isinstance(v, Tensor)}
    weights = {key: value for key, value in tensors.items() if key not in _AVERAGED}
    if weights and all(key.startswith(_PREFIX) for key in weights):
        tensors = weights
    buffers = {f"ema_{key.replace('.', '_')}" for key in tensors}
    tensors = {key: value for key, value in tensors.items() if key not in buffers}
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = _WRAPPERS.sub("", key).removeprefix(_PREFIX)
        if name in found:
            raise ValueError(
                f"{key} and another name are both {name!r} without the names of torch's "
                "wrappers: save the state_dict of one model"
            )
        found[name] = value
    return found


def _weights_in(checkpoint: Any) -> Mapping[Any, Any]:
    """The mapping that holds the weights; see `find_state_dict`."""
    for name in _CONTAINERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if _holds_weights(checkpoint):
        return checkpoint
    inside = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    found = {name: value for name, value in inside if _holds_weights(value)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(f"weights of several models, {list(found)}: save the state_dict of one")
    raise ValueError(
        f"no state_dict found; expected a mapping of names to tensors, or one of {_CONTAINERS}"
    )


def _holds_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
    )


def matching_weights(
    model: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    name: str,
    *,
    allow_mismatch: bool = False,
    warn: Callable[[str], object] = warnings.warn,
) -> dict[str, Tensor]:
    """The weights that match a model in name and shape; those of another model are refused.

    A wrapper's prefix (``model.``, ``module.net.``) is taken off the names that have it, or
    ``module.`` is put before all, if the model's names want that.

    Args:
        model: the model's own ``state_dict()``.
        state_dict: the weights to load.
        name: the checkpoint's name, for the message.
        allow_mismatch: return the weights that match, and tell ``warn`` about the others.

    Raises:
        ValueError: tensors are missing, left over, or of another shape; names the first few of
            each. With ``allow_mismatch``: no tensor matches.
    """
    state_dict = _named_as_in(model, state_dict)
    text = differences(model, state_dict)
    if text and not allow_mismatch:
        raise ValueError(
            f"checkpoint {name} is of another model: {text}; use its own config (train, test and "
            "predict load the rest with --allow-mismatch)"
        )
    matching = {k: v for k, v in state_dict.items() if k in model and model[k].shape == v.shape}
    if not matching:
        raise ValueError(f"checkpoint {name}: no tensor matches: {text}; use its own config")
    if text:
        warn(f"checkpoint {name}: {len(matching)} tensors loaded; {text}")
    return matching


def _named_as_in(
    model: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The weights without the prefix of a wrapper, by which most of their names match then.

    Unchanged if as many match as they are, if two prefixes do it equally well (a student and its
    teacher), or if two names would become one.
    """
    as_they_are = sum(name in model for name in state_dict)
    with_module = {f"{_PREFIX}{name}": value for name, value in state_dict.items()}
    if sum(name in model for name in with_module) > as_they_are:
        return with_module  # the model has a part of this name, which was no wrapper's
    found = Counter(p for name in state_dict for p in prefixes(name) if name[len(p) :] in model)
    best = found.most_common(2)
    if not best or best[0][1] <= as_they_are or len(best) == 2 and best[0][1] == best[1][1]:
        return state_dict
    renamed = without_prefix(state_dict, best[0][0])
    return renamed if len(renamed) == len(state_dict) else state_dict


def prefixes(name: str) -> Iterator[str]:
    """``a.`` and ``a.b.`` for ``a.b.c``."""
    return (name[: dot.end()] for dot in re.finditer(r"\.", name))


def without_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names without the prefix; those that do not begin with it stay, after the others."""
    inside = {n[len(prefix) :]: v for n, v in state_dict.items() if n.startswith(prefix)}
    others = {n: v for n, v in state_dict.items() if not n.startswith(prefix)}
    return inside | others


def differences(model: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> str:
    """How weights differ from those of a model, in one line with the first few names and shapes.

    Empty if they match. Batch norm's counters may be missing; torch then starts them at 0.
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
    return "; ".join(
        f"{len(v)} {what}{counts_by_part(v)}: {first_few(v, _SHOWN)}"
        for what, v in found.items()
        if v
    )


def counts_by_part(lines: list[str]) -> str:
    """`` (backbone 240, neck 16)`` for a list that is too long to be shown."""
    if len(lines) <= _SHOWN:
        return ""
    parts = Counter(line.partition(".")[0] for line in lines)
    return f" ({', '.join(f'{part} {count}' for part, count in parts.most_common(_SHOWN))})"
