"""The evaluators of a config that judge by a COCO file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope

from fpn_neck.datasets.check.evaluation import Evaluation
from fpn_neck.utils.walk import dicts, type_name

_MASKS = ("mask", "panoptic", "ins", "solo", "segm")  # in names of mmdet's models and heads
_NO_PARTS = ("train_cfg", "test_cfg", "data_preprocessor")  # may speak of masks, but give none
_PANOPTIC = "CocoPanopticMetric"
_OWN_PANOPTIC = "PanopticQualityMetric"  # ours, by a file of instances with outlines


def evaluations(
    cfg: Config, dataset: Mapping[str, Any], names: Sequence[str]
) -> tuple[Evaluation, ...]:
    """What judges the predictions on a data set, an `Evaluation` for each metric, none twice.

    Args:
        dataset: the config of the data set.
        names: its splits, such as 'val', or 'val 1 of 2' for one of several parts.
    """
    found: dict[Evaluation, Evaluation] = {}
    for name in names:
        split, _, part = name.partition(" ")
        for evaluation in _of_split(cfg, f"{split}_evaluator", part, dataset):
            found.setdefault(evaluation._replace(name=""), evaluation)
    return tuple(found.values())


def _of_split(
    cfg: Config, name: str, part: str, dataset: Mapping[str, Any]
) -> Iterator[Evaluation]:
    metrics = _metrics(cfg.get(name))
    own = _has_metric_for_each_part(cfg.get(name))
    if own and part:
        metrics = metrics[int(part.split()[0]) - 1 :][:1]
    for metric in metrics:
        kind = _kind(metric["type"], cfg.get("default_scope"))
        given = metric.get("ann_file")
        if not kind or "://" in str(given) or metric.get("backend_args"):
            continue  # judges otherwise, or by a file elsewhere
        names = ("segm",) if kind == _OWN_PANOPTIC else _as_tuple(metric.get("metric", "bbox"))
        yield Evaluation(
            name,
            str(given) if given else None,
            names,
            panoptic=kind == _PANOPTIC,
            scores=not metric.get("format_only"),
            sees_instances=_packs_instances(dataset),
            whole=not part or own,
        )


def check_masks(cfg: Config, split: str) -> None:
    """Refuse the metric 'segm' for a detector that gives no masks: it would fail after all photos.

    Raises:
        ValueError: names the metric.
    """
    for metric in _metrics(cfg.get(f"{split}_evaluator")):
        kind, names = _kind(metric["type"], cfg.get("default_scope")), metric.get("metric")
        if kind == "CocoMetric" and "segm" in _as_tuple(names) and not _gives_masks(cfg.model):
            raise ValueError(
                f"config: {split}_evaluator.metric={names!r}: model.type={type_name(cfg.model)!r} "
                "has no head for masks: set metric='bbox', or take a model with masks"
            )


def _gives_masks(model: Mapping[str, Any]) -> bool:
    """Whether any part of a detector is named for masks."""
    parts = {k: v for k, v in model.items() if k not in _NO_PARTS}
    names = [type_name(part) for _, part in dicts(parts) if "type" in part]
    names += [key for _, part in dicts(parts) for key, value in part.items() if value is not None]
    return any(word in name.lower() for name in names for word in _MASKS)


def _metrics(evaluator: Any) -> list[dict[str, Any]]:
    """The metrics of an evaluator: it is one, a list of some, or has some."""
    parts = (part for _, part in dicts(evaluator) if "type" in part)
    return [part for part in parts if "metrics" not in part]


def _has_metric_for_each_part(evaluator: Any) -> bool:
    return isinstance(evaluator, Mapping) and "dataset_prefixes" in evaluator


def _kind(given: Any, scope: str | None) -> str:
    """The metric of which the type is, or is derived from; '' if it reads no COCO file."""
    in_scope = DefaultScope.overwrite_default_scope(scope)
    try:
        with in_scope, METRICS.switch_scope_and_registry(None) as registry:
            known = registry.get(given) if isinstance(given, str) else given
    except Exception:  # of any type: mmengine tells it where the evaluator is built
        return ""
    bases = [base.__name__ for base in getattr(known, "__mro__", ())]
    return next((n for n in (_PANOPTIC, _OWN_PANOPTIC, "CocoMetric") if n in bases), "")


def _packs_instances(dataset: Mapping[str, Any]) -> bool:
    keys = [part.get("meta_keys") for _, part in dicts(dataset)]
    return any("instances" in one for one in keys if isinstance(one, (list, tuple)))


def _as_tuple(given: Any) -> tuple[str, ...]:
    return tuple(map(str, given if isinstance(given, (list, tuple)) else [given]))
