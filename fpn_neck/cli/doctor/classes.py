"""The classes that a config's data sets name, against K of its heads; no file of them is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fpn_neck.cli.doctor.section import Problem, Section, reason
from fpn_neck.datasets.check.heads import check_classes, check_weights, heads
from fpn_neck.utils.walk import data_sets

_SHOWN = 8  # names of classes


def examine_classes(cfg: Any, name: str) -> Section:
    """Every data set's classes, every head's K, and where they differ.

    Args:
        name: of the config file.
    """
    section, named = Section("classes and heads"), {}
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        for dataset in data_sets((loader or {}).get("dataset")):
            meta = _metainfo(cfg, dataset, split, section)
            classes = meta.get("classes") or ()
            if isinstance(classes, Sequence) and classes:
                named[split] = tuple(classes)
            section.rows.append((split, str(dataset.get("type")), _listed(classes)))
            if classes and not isinstance(classes, Sequence):
                what = f"{split}_dataloader.dataset.metainfo: classes={classes!r} are no names"
                section.problems.append(Problem(what, "metainfo=dict(classes=('name', ...))"))
            elif classes and "backbone" in cfg.model:  # trackers hold models of other classes
                section.problems += [
                    Problem(f"{kind.rule}: {value}", kind.remedy)
                    for kind, _, value in check_classes(name, split, cfg.model, meta)
                ]
    for split in ("val", "test"):
        if {"train", split} <= set(named) and named[split] != named["train"]:
            what = f"train and {split} name different classes"
            section.problems.append(Problem(what, "give both the same metainfo=dict(classes=...)"))
    for kind, _, value in check_weights(name, cfg.model):
        section.problems.append(Problem(f"{kind.rule}: {value}", kind.remedy))
    for path, head in heads(cfg.model):
        counts = {k: head[k] for k in head if k.startswith("num_") and k.endswith("classes")}
        text = ", ".join(f"{k}={v}" for k, v in counts.items())
        if counts:
            section.rows.append((path, str(head["type"]), text))
    section.problems = list(dict.fromkeys(section.problems))  # val and test are often one
    return section


def _metainfo(cfg: Any, dataset: Mapping[str, Any], split: str, section: Section) -> dict:
    """What the data set's class and config say, without its files."""
    from mmengine.registry import DATASETS

    scope = dataset.get("_scope_", cfg.default_scope)
    try:
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(dataset["type"])
        if kind is None:
            raise KeyError(f"{dataset['type']!r} is in no registry of data sets")
        return kind._load_metainfo(copy.deepcopy(dataset.get("metainfo")))
    except Exception as e:
        what = f"{split}_dataloader.dataset: {reason(e)}"
        remedy = "correct the data set's type and metainfo, or import what registers it"
        section.problems.append(Problem(what, remedy))
        return {}


def _listed(classes: Any) -> str:
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
        return "classes unknown before the data are read" if not classes else str(classes)
    rest = ["..."] if len(classes) > _SHOWN else []
    return f"{len(classes)} classes: {', '.join([*map(str, classes[:_SHOWN]), *rest])}"
