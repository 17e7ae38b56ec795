"""Errors of building a config and of too little memory, each in one line that says what to do."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from fpn_neck.mm.config.types import type_class
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.photos import paths_in
from fpn_neck.models.tiled_head import PHOTO_TILE
from fpn_neck.utils.text import cause, first_few, one_line
from fpn_neck.utils.walk import Place, dicts

_UNKNOWN = re.compile(r"(\S+) is not in the .*?registry\.")  # mmengine's KeyError
_IN_WORKER = "in DataLoader worker process"  # torch's message around another one
_SHOWN = 3  # parts of a config that an error may be about
# Of torch on CPUs and GPUs, cuDNN and cuBLAS, oneDNN, OpenCV, numpy and C++.
_NO_MEMORY = re.compile(
    "(can't|cannot|unable to) allocate|out of memory|alloc_failed|insufficient memory|bad_alloc|"
    "could not create a memory",
    re.IGNORECASE,
)
_ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)")
_SIZES = ("crop_size", "scale", "scales", "img_scale")  # of transforms


class StepHook(Hook):
    """Knows what a runner is doing.

    Attributes:
        building: whether the runner still builds the parts of its config.
        step: 'train', 'val' or 'test'.
        place: the step in words, 'training step 3'; '' before the first one.
    """

    priority = "HIGHEST"

    def __init__(self, step: str, *, building: bool = True) -> None:
        self.building, self.step, self._own = building, step, step
        self.place = ""

    @property
    def trains(self) -> bool:
        """Whether it is a training, with its validations."""
        return self._own == "train"

    def before_run(self, runner: Runner) -> None:
        self.building = False

    def before_train(self, runner: Runner) -> None:
        self.place = f"training step {runner.iter + 1}"

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.place = f"training step {runner.iter + 1}{_photos(kwargs.get('data_batch'))}"

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.place = f"training step {runner.iter + 2}"  # waits for its data

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.place = f"validation after step {runner.iter}, batch {batch_idx + 1}"
        self.place += _photos(data_batch)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.place = f"validation after step {runner.iter}, after batch {batch_idx + 1}"

    def before_test(self, runner: Runner) -> None:
        self.place = "test"

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.place = f"test, batch {batch_idx + 1}{_photos(data_batch)}"

    def after_test_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.place = f"test, after batch {batch_idx + 1}"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.building = False  # a FlexibleRunner loads before its `before_run`

    def before_val(self, runner: Runner | None) -> None:
        self.step = "val"
        if runner:
            self.place = f"validation after step {runner.iter}"

    def after_val(self, runner: Runner | None) -> None:
        self.step = self._own
        if runner:
            self.place = f"training step {runner.iter + 1}"


def _photos(batch: Any) -> str:
    """`` (photos a.jpg, b.jpg)``, if a batch says it."""
    known = paths_in(batch)
    return f" (photos {first_few(known)})" if known else ""


@contextmanager
def explained(cfg: Config, step: str, *, building: bool = True) -> Iterator[StepHook]:
    """Explain what can't be built, what doesn't fit into memory, and what fails in a step.

    Errors outside the steps of a runner pass unchanged, and so do those that this package raises.

    Args:
        cfg: the config.
        step: 'train' or 'test': what its model is built for, or does inside.
        building: whether parts of the config are built inside. The hook that is yielded knows
            better once it is registered with a runner: also when that runner validates.

    Raises:
        ValueError: names the part of the config that can't be built, and the reason; or batch,
            image size and classes, what to lower, and the last checkpoint; or the step, the cause
            and the last checkpoint. (A process that the operating system kills can't say anything.)
    """
    hook = StepHook(step, building=building)
    try:
        yield hook
    except Exception as e:  # constructors raise anything
        if isinstance(e, MemoryError) or _NO_MEMORY.search(str(e)):
            raise ValueError(_memory_error(cfg, hook.step, e)) from e
        text = _build_error(cfg, e, hook.building) or _step_error(cfg, e, hook)
        if not text:
            raise
        raise ValueError(text) from e


# ------------------------------------------------------------------------------ what can't be built


def _build_error(cfg: Config, error: Exception, building: bool) -> str:
    """The error in one line that names the part; '' if it passes as it is."""
    text = one_line(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if text.startswith("config: "):
        return ""  # it names the part already
    unknown = _UNKNOWN.match(text) if isinstance(error, KeyError) else None
    if unknown:
        text = unknown[0]  # without mmengine's advice and links
        parts = [(place, part) for place, part in _parts(cfg) if part["type"] == unknown[1]]
    elif not building or isinstance(error, torch.distributed.DistError) or "gloo" in text:
        return ""  # of a step, or another process ended
    else:
        parts = _parts_named_in(text, _parts(cfg))
    different = [one for i, one in enumerate(parts) if one[1] not in [p for _, p in parts[:i]]]
    if 0 < len(different) <= _SHOWN:
        places = [f"{'.'.join(map(str, p))} (type {_kind(part)})" for p, part in different]
        return f"config: {' or '.join(places)}: {text}"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        return ""  # the tools show it in one line
    reason = f"{type(error).__name__}: {text}" if str(error).strip() else cause(error)
    return f"config: one of its parts: {reason}"


def _parts(cfg: Config) -> list[tuple[Place, dict[str, Any]]]:
    return [(place, part) for place, part in dicts(dict(cfg.items())) if place and "type" in part]


def _parts_named_in(
    text: str, parts: list[tuple[Place, dict[str, Any]]]
) -> list[tuple[Place, dict[str, Any]]]:
    """Parts whose type, and if possible a setting, an error names; else those with its value."""
    words = set(re.findall(r"\w+", text))
    named = [one for one in parts if _kind(one[1]).strip("'").split(".")[-1] in words]
    if named:
        return [one for one in named if words & set(map(str, one[1])) - {"type"}] or named
    return [one for one in parts if any(_says(text, k, v) for k, v in one[1].items())]


def _says(text: str, key: Any, value: Any) -> bool:
    """Whether an error says ``key=value``, as those of this package do."""
    return re.search(rf"(?<![\w.]){re.escape(f'{key}={value!r}')}(?!\w)", text) is not None


def _kind(part: dict[str, Any]) -> str:
    kind = part["type"]
    return repr(kind) if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


# ---------------------------------------------------------------------------- what fails in a step


def _step_error(cfg: Config, error: Exception, hook: StepHook) -> str:
    """The error of a step in one line; '' if it passes as it is."""
    of_worker = _IN_WORKER in str(error)
    ours = isinstance(error, (ValueError, TypeError, OSError)) and _raised_here(error)
    of_processes = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
    if not hook.place or of_processes or ours and not of_worker:
        return ""
    if of_worker:  # torch puts the whole traceback into the message
        reason = one_line(str(error).strip().splitlines()[-1].strip("'\""))
    else:
        reason = cause(error)
    saved = _checkpoint(cfg) or "; no checkpoint is saved yet"
    of_run = saved if hook.trains else ""
    return f"{hook.place}: {reason}{of_run}; FPN_NECK_TRACEBACK=1 shows the traceback"


def _raised_here(error: Exception) -> bool:
    """Whether this package has raised an error, so that its message says what to do."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").startswith("fpn_neck.")


# ---------------------------------------------------------------------------- too large a batch


def _memory_error(cfg: Config, step: str, error: Exception) -> str:
    ways = _to_train_smaller(cfg) if step == "train" else _to_test_smaller(cfg, step)
    facts = f"{_asked_for(error)} with {_batch(cfg, step)}"
    return f"out of memory{facts}; lower {', or '.join(ways)}{_checkpoint(cfg)}"


def _to_train_smaller(cfg: Config) -> list[str]:
    ways = ["train_dataloader.batch_size or the size of what it loads"]
    ways += [
        f"raise {'.'.join(map(str, place))}.loss_stride={head.get('loss_stride', 1)}"
        for place, head in dicts(cfg.model.get("decode_head"), ("model", "decode_head"))
        if _is_ours(head, "FPNHead", cfg)
    ]
    backbone = cfg.model.get("backbone") or {}
    if not backbone.get("with_cp") and _takes_checkpointing(backbone, cfg.get("default_scope")):
        ways.append("set model.backbone.with_cp=True")
    wrapper = str(cfg.get("optim_wrapper", {}).get("type"))
    if torch.cuda.is_available() and "Amp" not in wrapper and "BFloat16" not in wrapper:
        ways.append("give --amp")
    return ways


def _to_test_smaller(cfg: Config, step: str) -> list[str]:
    ways = [f"{step}_dataloader.batch_size or the size of what it loads"]
    if _is_ours(cfg.model, "EncoderDecoder", cfg):
        ways.append(f"model.test_cfg.tile ({PHOTO_TILE} unless set)")
    return ways


def _asked_for(error: Exception) -> str:
    """As " (3.2 GB more)", if the error says it."""
    asked = _ASKED.search(str(error))
    if not asked:
        return ""
    number, unit = asked.groups()
    return (
        f" ({float(number) / 1e9:.1f} GB more)" if unit == "bytes" else f" ({number} {unit} more)"
    )


def _batch(cfg: Config, step: str) -> str:
    loader = cfg.get(f"{step}_dataloader") or {}
    facts = [f"batch_size={loader.get('batch_size', 1)}"]
    sizes = [(key, size) for key in _SIZES for size in _values(key, loader.get("dataset"))]
    facts += [f"{key}={size}" for key, size in sizes[:1]]
    size = (cfg.model.get("data_preprocessor") or {}).get("size")
    if step == "train" and size:
        facts.append(f"data_preprocessor.size={size}")
    facts += [f"{count} classes" for count in _values("num_classes", cfg.model)[:1]]
    return ", ".join(facts)


def _values(key: str, config: Any) -> list[Any]:
    return [part[key] for _, part in dicts(config) if key in part]


def _is_ours(part: dict[str, Any], name: str, cfg: Config) -> bool:
    """Whether a part is built by this package's class of that name, or one derived from it."""
    kind = type_class(part, MODELS, cfg.get("default_scope"))
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    return any(c.__name__ == name and c.__module__.startswith("fpn_neck.") for c in bases)


def _takes_checkpointing(backbone: dict[str, Any], scope: str | None) -> bool:
    """Whether the backbone can compute activations again instead of keeping them."""
    kind = type_class(backbone, MODELS, scope)
    classes = inspect.getmro(kind) if inspect.isclass(kind) else ()
    constructors = [vars(c)["__init__"] for c in classes if "__init__" in vars(c)]
    return any("with_cp" in inspect.signature(c).parameters for c in constructors)


def _checkpoint(cfg: Config) -> str:
    work_dir = cfg.get("work_dir")
    last = last_checkpoint(work_dir) if work_dir else None
    return f"; last good checkpoint: {last}, --resume goes on from it" if last else ""
