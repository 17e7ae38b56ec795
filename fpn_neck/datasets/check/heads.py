"""Checks of a model's config against its data: number of classes and length of class weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.findings import Finding
from fpn_neck.utils.walk import dicts, type_name

# Their num_classes counts something else too: object or not, a boundary, things with stuff.
_OWN_CLASSES = ("rpn_head", "semantic_head", "panoptic_fusion_head")
_OWN_CLASSES_TYPES = ("STDCHead",)


def heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every head in a model's config with its path, such as ``model.roi_head.bbox_head[0]``."""
    for place, part in dicts(model):
        names = [name for name in place if isinstance(name, str)]
        if names and names[-1].endswith("head") and "type" in part:
            steps = (f".{step}" if isinstance(step, str) else f"[{step}]" for step in place)
            yield f"model{''.join(steps)}", part


def check_heads(
    config: str, split: str, model: Mapping[str, Any], metainfo: Mapping[str, Any]
) -> list[Finding]:
    """Compare K of every head with the data's.

    Args:
        config: name of the config file.
        split: of the data set.
        model: the config's ``model``.
        metainfo: of the data set; the detector of a panoptic one has its ``thing_classes`` only.
    """
    classes = metainfo.get("classes")
    if not classes:
        return [Finding(kinds.NO_CLASSES, config, f"{split}: no classes in its metainfo")]
    if isinstance(classes, str):
        return [Finding(kinds.CLASSES_TEXT, config, f"{split}: classes={classes!r}")]
    fitting = {len(classes), len(metainfo.get("thing_classes", classes))}
    return [
        Finding(kinds.HEAD_CLASSES, config, f"{path}={k}, and {split} has K={len(classes)} classes")
        for path, k in _numbers_of_classes(model)
        if k not in fitting
    ]


def check_order(config: str, classes_of: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Find splits whose classes are those of the first one in another order.

    Args:
        config: name of the config file.
        classes_of: name of a data set -> its classes.
    """
    (first, expected), *others = classes_of.items() if classes_of else [("", ())]
    return [
        Finding(kinds.CLASS_ORDER, config, f"{first} and {name}: {text}")
        for name, classes in others
        if (text := other_order(expected, classes))
    ]


def other_order(classes: Sequence[str], others: Sequence[str]) -> str:
    """Where two lists of the same names differ, as text; '' if the names or orders are the same."""
    if sorted(map(str, classes)) != sorted(map(str, others)):
        return ""
    pairs = enumerate(zip(classes, others, strict=True))
    return next((f"label {i} is {a!r} and {b!r}" for i, (a, b) in pairs if a != b), "")


def _numbers_of_classes(model: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for path, head in heads(model):
        is_special = path.endswith(_OWN_CLASSES) or type_name(head).endswith(_OWN_CLASSES_TYPES)
        key = "num_things_classes" if is_special else "num_classes"
        if isinstance(head.get(key), int):
            yield f"{path}.{key}", head[key]


def check_weights(config: str, model: Mapping[str, Any]) -> list[Finding]:
    """Compare the length of every ``class_weight`` of a head with its outputs."""
    found = []
    for path, head in heads(model):
        for name, loss in _losses(head):
            weights, outputs = loss.get("class_weight"), _outputs(head, name, loss)
            if isinstance(weights, (list, tuple)) and outputs and len(weights) not in outputs:
                expected = " or ".join(map(str, outputs))
                value = (
                    f"{path}.{name}.class_weight has {len(weights)} numbers, expected {expected}"
                )
                found.append(Finding(kinds.WEIGHTS, config, value))
    return found


def _losses(head: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("loss_decode", "loss_cls"):
        losses = head.get(name, [])
        if isinstance(losses, Mapping):
            yield name, losses
        elif isinstance(losses, (list, tuple)):
            numbered = ((i, loss) for i, loss in enumerate(losses) if isinstance(loss, Mapping))
            yield from ((f"{name}[{i}]", loss) for i, loss in numbered)


def _outputs(head: Mapping[str, Any], name: str, loss: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of outputs that the loss may have; () if unknown."""
    k = head.get("num_classes")
    if not isinstance(k, int):
        return ()
    if name.startswith("loss_cls"):  # boxes and queries may be 'no object'
        return (k,) if loss.get("use_sigmoid") else (k + 1,)
    queries = "train_cfg" in head  # mmseg's heads with an assigner
    return (k, k + 1) if queries else (head.get("out_channels") or k,)
