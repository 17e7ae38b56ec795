"""The evaluators of a config: those that judge by a COCO file, and what they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import LOOPS, METRICS, Registry
from mmengine.runner import ValLoop

from fpn_neck.datasets.check.evaluation import Evaluation
from fpn_neck.mm.config.types import type_class
from fpn_neck.utils.walk import dicts, type_name

_MASKS = ("mask", "panoptic", "ins", "solo", "segm")  # in names of mmdet's models and heads
_NO_PARTS = ("train_cfg", "test_cfg", "data_preprocessor")  # may speak of masks, but give none
_PANOPTIC = "CocoPanopticMetric"
_OWN_PANOPTIC = "PanopticQualityMetric"  # ours, by a file of instances with outlines
# What mmseg's IoUMetric gives for each of its `iou_metrics`, and mmdet's CocoMetric for boxes or
# masks and for proposals. (mmseg/evaluation/metrics/iou_metric.py, mmdet/.../coco_metric.py)
_IOU_RESULTS = {
    "mIoU": ("aAcc", "mIoU", "mAcc"),
    "mDice": ("aAcc", "mDice", "mAcc"),
    "mFscore": ("aAcc", "mFscore", "mPrecision", "mRecall"),
}
_OCCURRING = ("mIoU_occurring", "mIoU_foreground", "num_occurring")
_AP = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_AR = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")


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


def check_coco_settings(cfg: Config, split: str) -> None:
    """Refuse settings by which mmdet's CocoMetric fails after all photos, or gives -1 as mAP.

    Raises:
        ValueError: names the setting.
    """
    for metric in _metrics(cfg.get(f"{split}_evaluator")):
        if _kind(metric["type"], cfg.get("default_scope")) != "CocoMetric":
            continue
        name = f"config: {split}_evaluator"
        unknown = [item for item in metric.get("metric_items") or () if item not in (*_AP, *_AR)]
        if unknown:
            known = ", ".join((*_AP, *_AR))
            raise ValueError(f"{name}.metric_items={unknown}: expected a list out of {known}")
        counts = list(metric.get("proposal_nums") or (100, 300, 1000))
        precision = {"bbox", "segm"} & set(_as_tuple(metric.get("metric", "bbox")))
        by_pycocotools = not metric.get("use_mp_eval")  # mmdet's own takes any counts
        if by_pycocotools and (len(counts) < 3 or precision and 100 not in counts):
            raise ValueError(
                f"{name}.proposal_nums={counts}: expected three numbers"
                + (", 100 among them, by which pycocotools computes mAP" if precision else "")
            )
        if isinstance(metric.get("iou_thrs"), (list, tuple, int, float)):
            raise ValueError(
                f"{name}.iou_thrs={metric['iou_thrs']}: pycocotools takes an array only, which no "
                "config holds: leave iou_thrs out; mAP_50 and mAP_75 are among the results"
            )


def check_best(cfg: Config) -> None:
    """Refuse a ``save_best`` that no metric gives: the first validation would end the run.

    A metric or a loop of a class that is not known here may give any result; nothing is refused
    then. The loop itself adds losses, as ``val/loss``.

    Raises:
        ValueError: names what is wanted, and what the metrics give.
    """
    wanted = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    names = [n for n in _as_tuple(wanted.get("save_best")) if not n.startswith(("auto", "val"))]
    if not wanted.get("save_best") or not _is_plain_loop(cfg):
        return
    metrics = _metrics(cfg.get("val_evaluator"))
    given = [_results(metric, cfg.get("default_scope")) for metric in metrics]
    known = [name for results in given for name in results]
    is_known = known and all(given) and not _has_metric_for_each_part(cfg.val_evaluator)
    unknown = [name for name in names if name not in known]
    if is_known and unknown:
        raise ValueError(
            f"config: default_hooks.checkpoint.save_best={unknown[0]!r}: expected one of the "
            f"results of val_evaluator, {', '.join(known)}, or 'auto' for the first"
        )


def _is_plain_loop(cfg: Config) -> bool:
    loop = cfg.get("val_cfg")
    if not isinstance(loop, Mapping):
        return False
    return "type" not in loop or _class(loop["type"], LOOPS, cfg.get("default_scope")) is ValLoop


def _results(metric: Mapping[str, Any], scope: str | None) -> list[str]:
    """The names of a metric's results; none if its class is not known here."""
    kind = _class(metric["type"], METRICS, scope)
    package, name = getattr(kind, "__module__", "").partition(".")[0], getattr(kind, "__name__", "")
    results: list[str] = []
    if (package, name) == ("mmdet", "CocoMetric") and not metric.get("classwise"):
        results = _coco_results(metric)
    elif (package, name) == ("mmseg", "IoUMetric") or (
        package == "fpn_neck" and name.endswith("IoUMetric")
    ):
        results = _iou_results(metric) + list(_OCCURRING) * (package == "fpn_neck")
    prefix = metric.get("prefix") or getattr(kind, "default_prefix", None)
    return [f"{prefix}/{result}" if prefix else result for result in results]


def _iou_results(metric: Mapping[str, Any]) -> list[str]:
    asked = _as_tuple(metric.get("iou_metrics", "mIoU"))
    return [result for name in asked for result in _IOU_RESULTS.get(name, ())]


def _coco_results(metric: Mapping[str, Any]) -> list[str]:
    results: list[str] = []
    items, counts = metric.get("metric_items"), metric.get("proposal_nums", (100, 300, 1000))
    for name in _as_tuple(metric.get("metric", "bbox")):
        if name == "proposal_fast":
            results += [f"AR@{count}" for count in counts]
        elif name == "proposal":
            results += items or _AR
        else:
            results += [f"{name}_{item}" for item in items or _AP]
    return results


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
    bases = [base.__name__ for base in getattr(_class(given, METRICS, scope), "__mro__", ())]
    return next((n for n in (_PANOPTIC, _OWN_PANOPTIC, "CocoMetric") if n in bases), "")


def _class(given: Any, registry: Registry, scope: str | None) -> Any:
    try:
        return type_class({"type": given}, registry, scope)
    except Exception:  # of any type: mmengine tells it where the part is built
        return None


def _packs_instances(dataset: Mapping[str, Any]) -> bool:
    keys = [part.get("meta_keys") for _, part in dicts(dataset)]
    return any("instances" in one for one in keys if isinstance(one, (list, tuple)))


def _as_tuple(given: Any) -> tuple[str, ...]:
    return tuple(map(str, given if isinstance(given, (list, tuple)) else [given]))
