"""Out of memory: how large the batch was, and which settings to lower."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.models.tiled_head import PHOTO_TILE

# Of torch on CPUs and GPUs, cuDNN and cuBLAS, oneDNN, OpenCV, numpy and C++.
_SIGNS = re.compile(
    "(can't|cannot|unable to) allocate|out of memory|alloc_failed|insufficient memory|bad_alloc|"
    "could not create a memory",
    re.IGNORECASE,
)
_ASKED = re.compile(r"allocate ([\d.]+ ?(?:bytes|[KMGT]iB))")
_SIZES = ("crop_size", "scale", "scales", "img_scale")  # of transforms


@contextmanager
def memory_advice(cfg: Config) -> Iterator[None]:
    """Explain what doesn't fit into memory by the settings that decide on it.

    Raises:
        ValueError: memory ran out; names batch, image size and classes, what to lower, and the last
            good checkpoint. (A process that the operating system kills can't say anything.)
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, MemoryError) and not _SIGNS.search(str(e)):
            raise
        steps = {frame.f_code.co_name for frame, _ in walk_tb(e.__traceback__)}
        used = [name for name in ("val", "test") if f"{name}_step" in steps]
        split = used[0] if used else "train"
        lower = _of_training(cfg) if split == "train" else _of_testing(cfg, split)
        facts = f"{_asked_for(e)} with {_batch(cfg, split)}"
        raise ValueError(f"out of memory{facts}; lower {lower}{_checkpoint(cfg)}") from e


def _of_training(cfg: Config) -> str:
    ways = ["train_dataloader.batch_size or the size of what it loads"]
    backbone = cfg.model.get("backbone") or {}
    ways += [
        f"raise {name}.loss_stride={head.get('loss_stride', 1)}"
        for name, head in _decode_heads(cfg)
        if head.get("type") == "fpn_neck.FPNHead"
    ]
    if not backbone.get("with_cp") and _takes_checkpointing(backbone, cfg.get("default_scope")):
        ways.append("set model.backbone.with_cp=True")
    if torch.cuda.is_available() and "Amp" not in str(cfg.get("optim_wrapper", {}).get("type")):
        ways.append("give --amp")
    return ", or ".join(ways)


def _decode_heads(cfg: Config) -> list[tuple[str, dict]]:
    """The one of a segmenter, or those of a cascade."""
    head = cfg.model.get("decode_head") or {}
    if isinstance(head, (list, tuple)):
        return [(f"model.decode_head.{i}", part) for i, part in enumerate(head)]
    return [("model.decode_head", head)]


def _of_testing(cfg: Config, split: str) -> str:
    ways = [f"{split}_dataloader.batch_size or the size of what it loads"]
    if cfg.model.get("type") == "fpn_neck.EncoderDecoder":
        ways.append(f"model.test_cfg.tile ({PHOTO_TILE} unless set)")
    return ", or ".join(ways)


def _asked_for(error: Exception) -> str:
    """As " (3.2 GB more)", where the error says it."""
    asked = _ASKED.search(str(error))
    if not asked:
        return ""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", asked[1]).groups()
    more = f"{float(number) / 1e9:.1f} GB" if unit == "bytes" else f"{number} {unit}"
    return f" ({more} more)"


def _batch(cfg: Config, split: str) -> str:
    loader = cfg.get(f"{split}_dataloader") or {}
    facts = [f"batch_size={loader.get('batch_size', 1)}"]
    sizes = [(k, part[k]) for k in _SIZES for part in _having(k, loader.get("dataset"))][:1]
    preprocessor = cfg.model.get("data_preprocessor") or {}
    if split == "train" and preprocessor.get("size"):
        sizes.append(("data_preprocessor.size", preprocessor["size"]))
    facts += [f"{key}={size}" for key, size in sizes]
    classes = [part["num_classes"] for part in _having("num_classes", cfg.model)]
    return ", ".join([*facts, *(f"{k} classes" for k in classes[:1])])


def _having(key: str, config: Any) -> Iterator[dict]:
    """The dictionaries in a config that have this key."""
    if isinstance(config, dict):
        if key in config:
            yield config
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _having(key, part)


def _takes_checkpointing(backbone: dict, scope: str | None) -> bool:
    kind = backbone.get("type")
    if isinstance(kind, str):
        with (
            DefaultScope.overwrite_default_scope(scope),
            MODELS.switch_scope_and_registry(None) as registry,
        ):
            kind = registry.get(kind)
    classes = inspect.getmro(kind) if inspect.isclass(kind) else ()
    return any("with_cp" in inspect.signature(c.__init__).parameters for c in classes)


def _checkpoint(cfg: Config) -> str:
    last = last_checkpoint(cfg.get("work_dir") or ".")
    return f"; last good checkpoint: {last}, --resume goes on from it" if last else ""
