"""What the tools expect of a config's sections: which are dicts, and which lists of dicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_SPLITS = ("train", "val", "test")
_DICTS = ("env_cfg", "randomness", "auto_scale_lr", "visualizer", "model", "optim_wrapper")
_DICTS += tuple(f"{split}_{part}" for split in _SPLITS for part in ("cfg", "dataloader"))
_TYPED = ("model", "visualizer")
_LISTS = ("custom_hooks",)
_EITHER = ("param_scheduler", "val_evaluator", "test_evaluator")
_IOU_METRICS = ["mIoU", "mDice", "mFscore"]  # of mmseg
_TEXTS = ("default_scope", "work_dir", "load_from")


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Refuse a section of another type than the tools and mmengine's Runner read.

    What stands inside of a model or a transform is left to what builds it.

    Raises:
        TypeError: names the section, its value and what is expected.
    """
    for name in _TEXTS:
        _expect(cfg.get(name) is None or isinstance(cfg[name], str), name, cfg.get(name), "a text")
    level = cfg.get("log_level", "INFO")
    known = not isinstance(level, str) or isinstance(logging.getLevelName(level), int)
    _expect(known, "log_level", level, "a level's name, as 'INFO'")
    for name in _DICTS:
        _check_dict(name, cfg.get(name), typed=name in _TYPED)
    for name in (*_LISTS, *_EITHER):
        value = cfg.get(name)
        if name in _EITHER and isinstance(value, Mapping):
            value = [value]
        _check_list(name, value)
    _check_list("visualizer.vis_backends", (cfg.get("visualizer") or {}).get("vis_backends"))
    hooks = cfg.get("default_hooks")
    _check_dict("default_hooks", hooks)
    for name, hook in (hooks or {}).items():
        _check_dict(f"default_hooks.{name}", hook, typed=True)
    for split in _SPLITS:
        loader = cfg.get(f"{split}_dataloader") or {}
        if "dataset" in loader:
            _check_dataset(f"{split}_dataloader.dataset", loader["dataset"])


def require(cfg: Mapping[str, Any], *names: str) -> None:
    """Refuse a config in which one of these sections is missing, None or empty.

    Raises:
        ValueError: names the section.
    """
    for name in names:
        if not cfg.get(name):
            raise ValueError(f"config: {name}={cfg.get(name)!r}: it is needed here; give {name}")


def require_photos(cfg: Mapping[str, Any]) -> None:
    """Refuse a config whose test pipeline could prepare no photo for its model.

    Raises:
        ValueError: names what is missing.
    """
    require(cfg, "model", "test_dataloader")
    check_levels(cfg["model"])
    pipeline = (cfg["test_dataloader"].get("dataset") or {}).get("pipeline") or []
    if len(pipeline) < 2:
        what = f"test_dataloader.dataset.pipeline={pipeline!r}"
        raise ValueError(f"config: {what}: expected transforms that load a photo, ... and pack it")


def check_metrics(name: str, evaluator: Any) -> None:
    """Refuse what mmseg's IoUMetric would only stumble over after a whole evaluation.

    Raises:
        ValueError: names the metric.
    """
    for part in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if not isinstance(part, Mapping) or not str(part.get("type")).endswith("IoUMetric"):
            continue
        given = part.get("iou_metrics", _IOU_METRICS)
        metrics = [given] if isinstance(given, str) else given
        is_list = isinstance(metrics, (list, tuple))
        if not is_list or any(metric not in _IOU_METRICS for metric in metrics):
            what = f"config: {name}.iou_metrics={given}"
            raise ValueError(f"{what}: expected a list out of {_IOU_METRICS}")


def check_levels(model: Mapping[str, Any]) -> None:
    """Refuse a head that takes a level which its FPN doesn't make: the first step would fail.

    Raises:
        ValueError: names the head's indices.
    """
    neck, head = model.get("neck"), model.get("decode_head")
    if not isinstance(neck, Mapping) or not isinstance(head, Mapping):
        return
    if not str(neck.get("type")).endswith("FPN"):
        return
    indices = head.get("in_index")
    inputs = neck.get("in_channels")
    count = neck.get("num_outs") or (len(inputs) if isinstance(inputs, (list, tuple)) else None)
    numbers = isinstance(indices, (list, tuple)) and all(isinstance(i, int) for i in indices)
    if numbers and isinstance(count, int) and max(indices, default=0) >= count:
        what = f"config: model.decode_head.in_index={indices}"
        raise ValueError(f"{what}: expected numbers below the {count} levels of model.neck")


def _check_dataset(name: str, dataset: Any) -> None:
    """A data set, or one of data sets, such as RepeatDataset and ConcatDataset."""
    _expect(isinstance(dataset, Mapping), name, dataset, "a dict")
    _check_dict(name, dataset, typed="type" in dataset)
    if "pipeline" in dataset:
        _check_list(f"{name}.pipeline", dataset["pipeline"])
    if "dataset" in dataset:
        _check_dataset(f"{name}.dataset", dataset["dataset"])
    inner = dataset.get("datasets", [])
    _expect(isinstance(inner, (list, tuple)), f"{name}.datasets", inner, "a list of dicts")
    for i, part in enumerate(inner):
        _check_dataset(f"{name}.datasets[{i}]", part)


def _check_list(name: str, value: Any) -> None:
    if value is None:
        return
    _expect(isinstance(value, (list, tuple)), name, value, "a list of dicts")
    for i, part in enumerate(value):
        _expect(part is not None, f"{name}[{i}]", part, "a dict with the key 'type'")
        _check_dict(f"{name}[{i}]", part, typed=True)


def _check_dict(name: str, value: Any, *, typed: bool = False) -> None:
    if value is None:
        return
    _expect(isinstance(value, Mapping), name, value, "a dict")
    if typed:
        kind = value.get("type")
        known = isinstance(kind, str) or callable(kind)
        _expect(known, f"{name}.type", kind, "the name of a registered class, or a class")


def _expect(holds: bool, name: str, value: Any, what: str) -> None:
    if not holds:
        raise TypeError(f"config: {name}={value!r}: expected {what}")
