"""The parts of a config: every dict inside of it, every data set inside of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]  # keys and positions on the way to a part, from outside to inside


def dicts(config: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every dict in nested dicts, lists and tuples with its place, an outer one before its inner.

    ``{"model": {"neck": [{"type": "FPN"}]}}`` gives the dicts at ``()``, ``("model",)`` and
    ``("model", "neck", 0)``. Each dict may be changed before the next one is asked for.
    """
    if isinstance(config, dict):
        yield place, config
        for key, value in config.items():
            yield from dicts(value, (*place, key))
    elif isinstance(config, (list, tuple)):
        for i, value in enumerate(config):
            yield from dicts(value, (*place, i))


def data_sets(dataset: Any) -> Iterator[dict[str, Any]]:
    """The data sets inside of wrappers that repeat, balance or join them, such as RepeatDataset.

    Args:
        dataset: a data set's config, a list of them, or None. A config without another one inside
            is a data set itself.
    """
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from data_sets(part)
    elif isinstance(dataset, dict):
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner:
            yield from data_sets(inner)
        else:
            yield dataset


def type_name(part: Mapping[str, Any]) -> str:
    """The name without its scope; a class (mmengine's Python configs) has its own name.

    ``'Resize'``, ``'mmdet.Resize'`` and the class ``Resize`` give ``'Resize'``.
    """
    kind = part.get("type")
    return str(getattr(kind, "__name__", kind)).rpartition(".")[2]
