"""The names of labels that a config's data set gives, without its files."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from inspect import isclass
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from fpn_neck.mm.config.types import type_class
from fpn_neck.utils.walk import data_sets


def names_in_config(cfg: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """``classes``, ``palette``, ... of the test data set, by its class and its ``metainfo``.

    Args:
        scope: 'mmseg' or 'mmdet', where types without a scope are looked up.

    Returns:
        {} for a data set that is not one of mmengine's.
    """
    loader = cfg.get("test_dataloader") or {}
    for part in data_sets(loader.get("dataset")):
        kind = type_class(part, DATASETS, scope) if "type" in part else None
        if isclass(kind) and issubclass(kind, BaseDataset):
            with DefaultScope.overwrite_default_scope(scope), redirect_stdout(io.StringIO()):
                found = DATASETS.build({**part, "lazy_init": True, "pipeline": []}).metainfo
            return {key.lower(): value for key, value in found.items() if value is not None}
    return {}


def declared_metainfo(dataset: Mapping[str, Any], scope: str | None) -> Mapping[str, Any]:
    """What a data set's class and its ``metainfo`` say; the data set is not built.

    Raises:
        KeyError: its type is not registered.
    """
    kind = type_class(dataset, DATASETS, scope)
    if kind is None:
        raise KeyError(f"{dataset['type']!r} is in no registry of data sets")
    return kind._load_metainfo(copy.deepcopy(dataset.get("metainfo")))
