"""Settings that our tools read: which must be texts, dicts, or parts that have a type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fpn_neck.utils.values import check_whole
from fpn_neck.utils.walk import data_sets, dicts, type_name

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_TEXTS = ("default_scope", "work_dir", "load_from")
_DICTS = (*_LOADERS, "default_hooks", "env_cfg", "auto_scale_lr", "optim_wrapper")
_NEEDED = ("backbone", "decode_head", "rpn_head", "roi_head", "bbox_head")  # where a model has them
_EVALUATORS = ("val_evaluator", "test_evaluator")
_IOU_METRICS = ["mIoU", "mDice", "mFscore"]  # of mmseg


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Refuse settings of another type than our tools read; the others are left to mmengine.

    Raises:
        TypeError: names the setting, its value and what is expected.
    """
    for name in (*_TEXTS, *_DICTS):
        kind, expected = (str, "a text") if name in _TEXTS else (Mapping, "a dict")
        if cfg.get(name) is not None and not isinstance(cfg[name], kind):
            raise _wrong(name, cfg[name], expected)
    for name, part in _parts(cfg):
        if not isinstance(part, Mapping):
            raise _wrong(name, part, "a dict with the key 'type'")
        given = part.get("type")
        if not (given and isinstance(given, str)) and not callable(given):
            raise _wrong(f"{name}.type", given, "the name of a registered class, or a class")


def _wrong(name: str, value: Any, expected: str) -> TypeError:
    return TypeError(f"config: {name}={value!r}: expected {expected}")


def _parts(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every dict with a type that our tools read, with its name."""
    hooks = {f"default_hooks.{k}": hook for k, hook in (cfg.get("default_hooks") or {}).items()}
    model = cfg.get("model")
    one_each = {"model": model, "visualizer": cfg.get("visualizer")} | hooks
    yield from ((name, part) for name, part in one_each.items() if part is not None)
    for name in _NEEDED:
        if isinstance(model, Mapping) and model.get(name, {}) is None:
            yield f"model.{name}", None
    yield from _each("custom_hooks", cfg.get("custom_hooks"))
    for name in _EVALUATORS:
        is_one = isinstance(cfg.get(name), Mapping)
        yield from [(name, cfg[name])] if is_one else _each(name, cfg.get(name))
    yield from _each("visualizer.vis_backends", (cfg.get("visualizer") or {}).get("vis_backends"))
    for name in _LOADERS:
        loader = cfg.get(name) or {}
        if "dataset" in loader:
            yield from _inside(f"{name}.dataset", loader["dataset"])


def _inside(name: str, dataset: Any) -> Iterator[tuple[str, Any]]:
    """A data set, its transforms, and the data sets inside of it."""
    if not isinstance(dataset, Mapping) or "type" in dataset:
        yield name, dataset
    yield from _each(f"{name}.pipeline", dataset.get("pipeline"))
    if "dataset" in dataset:
        yield from _inside(f"{name}.dataset", dataset["dataset"])
    for inner, part in _each(f"{name}.datasets", dataset.get("datasets")):
        yield from _inside(inner, part)


def _each(name: str, parts: Any) -> Iterator[tuple[str, Any]]:
    if parts is not None and not isinstance(parts, (list, tuple)):
        raise _wrong(name, parts, "a list of dicts")
    yield from ((f"{name}[{i}]", part) for i, part in enumerate(parts or ()))


def require(cfg: Mapping[str, Any], *names: str) -> None:
    """Refuse a config in which one of these sections is missing, None or empty.

    Raises:
        ValueError: names the section.
    """
    for name in names:
        if not cfg.get(name):
            raise ValueError(f"config: {name}={cfg.get(name)!r}: it is needed here; give {name}")


def require_photos(cfg: Mapping[str, Any]) -> None:
    """Refuse a config whose test pipeline can't prepare a photo for its model.

    Raises:
        ValueError: names what is missing.
    """
    require(cfg, "model", "test_dataloader")
    check_levels(cfg["model"])
    dataset = next(data_sets(cfg["test_dataloader"].get("dataset")), {})
    pipeline = dataset.get("pipeline") or []
    if len(pipeline) < 2:
        what = f"test_dataloader.dataset.pipeline={pipeline!r}"
        raise ValueError(f"config: {what}: expected transforms that load a photo, ... and pack it")


def check_metrics(name: str, evaluator: Any) -> None:
    """Refuse metrics at which mmseg's IoUMetric would fail only after a whole evaluation.

    Raises:
        ValueError: names the metric.
    """
    for part in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if not isinstance(part, Mapping) or not type_name(part).endswith("IoUMetric"):
            continue
        given = part.get("iou_metrics", _IOU_METRICS)
        metrics = [given] if isinstance(given, str) else given
        is_list = isinstance(metrics, (list, tuple))
        if not is_list or any(metric not in _IOU_METRICS for metric in metrics):
            what = f"config: {name}.iou_metrics={given}"
            raise ValueError(f"{what}: expected a list out of {_IOU_METRICS}")


def check_length(train_cfg: Any) -> None:
    """Refuse a training of no step, which would save weights as if it had been one.

    Raises:
        ValueError: names the number, or ``train_cfg`` if it is not a dict.
    """
    if not isinstance(train_cfg, Mapping):
        raise _wrong("train_cfg", train_cfg, "a dict")
    for name in ("max_iters", "max_epochs", "val_interval"):
        given = train_cfg.get(name, 1)
        is_whole = isinstance(given, (int, float)) and not isinstance(given, bool)
        if not is_whole or given < 1 or given != int(given):
            raise ValueError(
                f"config: train_cfg.{name}={given!r}: expected a whole number of at least 1"
                + ("; validation is left out by val_cfg=None" * (name == "val_interval"))
            )


def check_schedule(cfg: Mapping[str, Any], *, by_iterations: bool) -> None:
    """Refuse what counts epochs in a training by iterations, in which no epoch ends before it.

    mmengine counts epochs unless ``by_epoch=False`` is given. A learning rate would stay what it is
    at the start, as at a thousandth of itself in a warm-up, and only the end would be saved.

    Args:
        by_iterations: whether the training's loop is one by iterations.

    Raises:
        ValueError: names the setting.
    """
    if not by_iterations:
        return
    parts = ("param_scheduler", cfg.get("param_scheduler"))
    saves = ("default_hooks.checkpoint", (cfg.get("default_hooks") or {}).get("checkpoint"))
    named = [(name, place, part) for name, whole in (parts, saves) for place, part in dicts(whole)]
    for name, place, part in named:
        kind = type_name(part) if "type" in part else ""
        counts = kind.endswith(("LR", "Momentum", "Scheduler", "CheckpointHook"))
        if not counts or "ReduceOnPlateau" in kind or part.get("convert_to_iter_based"):
            continue  # one of another kind, or one that counts validations
        if part.get("by_epoch", True):
            name += "".join(f"[{step!r}]" for step in place)
            raise ValueError(
                f"config: {name}.by_epoch={part.get('by_epoch')} ({kind}): it would count epochs "
                "(mmengine's default), and train_cfg trains by iterations: set by_epoch=False"
            )


def check_loader(name: str, loader: Mapping[str, Any]) -> None:
    """Refuse settings of a loader at which torch fails without saying which loader it is.

    Raises:
        TypeError, ValueError: names the setting.
    """
    for key, least in (("batch_size", 1), ("num_workers", 0), ("prefetch_factor", 1)):
        several = key == "batch_size" and loader.get("batch_sampler")  # may take a size per source
        if key in loader and (key, loader[key]) != ("prefetch_factor", None) and not several:
            check_whole(f"config: {name}.{key}", loader[key], least)
    if "sampler" in loader and not isinstance(loader["sampler"], Mapping):
        raise _wrong(f"{name}.sampler", loader["sampler"], "a dict with the key 'type'")
    size, of_sampler = (part.get("batch_size") for part in (loader, loader.get("sampler", {})))
    if size and of_sampler and size != of_sampler:  # mmdet's mixes sources within its batches
        what = f"config: {name}.sampler.batch_size={of_sampler}"
        raise ValueError(f"{what}: expected the loader's batch_size, {size}: make both the same")
    for key in ("persistent_workers", "prefetch_factor"):
        if loader.get(key) and not loader.get("num_workers"):
            raise ValueError(
                f"config: {name}.{key}={loader[key]}: expected {name}.num_workers of at least 1; "
                f"raise it, or set {key}={False if key == 'persistent_workers' else None}"
            )


def check_levels(model: Mapping[str, Any]) -> None:
    """Refuse a head that takes a level which its FPN doesn't make: the first step would fail.

    Raises:
        ValueError: names the head's indices.
    """
    neck, head = model.get("neck"), model.get("decode_head")
    if not isinstance(neck, Mapping) or not isinstance(head, Mapping):
        return
    inputs, indices = neck.get("in_channels"), head.get("in_index")
    count = neck.get("num_outs") or (len(inputs) if isinstance(inputs, (list, tuple)) else None)
    if not isinstance(indices, (list, tuple)) or not all(isinstance(i, int) for i in indices):
        return
    is_fpn = type_name(neck).endswith("FPN")
    if is_fpn and isinstance(count, int) and max(indices, default=0) >= count:
        what = f"config: model.decode_head.in_index={indices}"
        raise ValueError(f"{what}: expected numbers below the {count} levels of model.neck")
