"""The classes of a config's data sets, against K of its heads; none of their files is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.datasets.check.findings import Finding
from fpn_neck.datasets.check.heads import check_heads, check_weights, heads
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import data_sets

_SHOWN = 8  # names of classes


def examine_classes(cfg: Any, config: str) -> Section:
    """Every data set's classes, every head's K, and where they differ.

    Args:
        config: name of the file.
    """
    section, classes_of = Section("classes and heads"), {}
    for split, dataset in _data_sets_of(cfg):
        metainfo = _metainfo(cfg, dataset, split, section)
        classes = metainfo.get("classes") or ()
        section.rows.append((split, _type(dataset), _summary(classes)))
        section.problems += _check_data_set(cfg.model, config, split, metainfo)
        if classes and isinstance(classes, Sequence):
            classes_of[split] = tuple(classes)
    section.problems += _check_splits(classes_of)
    section.problems += _problems(check_weights(config, cfg.model))
    section.problems = list(dict.fromkeys(section.problems))  # val and test are often one
    section.rows += _head_rows(cfg.model)
    return section


def _data_sets_of(cfg: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(split, data set) of all three splits."""
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader") or {}
        for dataset in data_sets(loader.get("dataset")):
            yield split, dataset


def _metainfo(
    cfg: Any, dataset: Mapping[str, Any], split: str, section: Section
) -> Mapping[str, Any]:
    """What the data set's class and config say, without its files."""
    from fpn_neck.mm.config.names import declared_metainfo
    from fpn_neck.mm.config.types import framework

    try:
        return declared_metainfo(dataset, framework(cfg))
    except Exception as e:
        what = f"{split}_dataloader.dataset: {one_line(e, with_type=True)}"
        remedy = "correct the data set's type and metainfo, or import what registers it"
        section.problems.append(Problem(what, remedy))
        return {}


def _check_data_set(
    model: Mapping[str, Any], config: str, split: str, metainfo: Mapping[str, Any]
) -> list[Problem]:
    classes = metainfo.get("classes")
    if classes and not isinstance(classes, Sequence):
        what = f"{split}_dataloader.dataset.metainfo: classes={classes!r} are not names"
        return [Problem(what, "metainfo=dict(classes=('name', ...))")]
    if classes and "backbone" in model:  # a tracker contains models with other classes
        return _problems(check_heads(config, split, model, metainfo))
    return []


def _check_splits(classes_of: Mapping[str, tuple]) -> list[Problem]:
    train = classes_of.get("train")
    return [
        Problem(
            f"train and {split} name different classes",
            "give both the same metainfo=dict(classes=...)",
        )
        for split in ("val", "test")
        if train and classes_of.get(split, train) != train
    ]


def _problems(findings: Sequence[Finding]) -> list[Problem]:
    return [Problem(f"{kind.rule}: {value}", kind.remedy) for kind, _, value in findings]


def _head_rows(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, head in heads(model):
        counts = [f"{k}={head[k]}" for k in head if k.startswith("num_") and k.endswith("classes")]
        if counts:
            yield path, _type(head), ", ".join(counts)


def _type(part: Mapping[str, Any]) -> str:
    """As the config names it; mmengine's Python configs have classes."""
    return str(getattr(part.get("type"), "__name__", part.get("type")))


def _summary(classes: Any) -> str:
    if not classes:
        return "classes unknown before the data are read"
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        return str(classes)
    rest = ["..."] if len(classes) > _SHOWN else []
    return f"{len(classes)} classes: {', '.join([*map(str, classes[:_SHOWN]), *rest])}"
