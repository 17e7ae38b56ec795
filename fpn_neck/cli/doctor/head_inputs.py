"""What heads declare of their levels, against the levels that they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fpn_neck.cli.doctor.levels import Level
from fpn_neck.cli.doctor.section import Problem
from fpn_neck.datasets.check.heads import heads


def check_heads(model: Mapping[str, Any], levels: Sequence[Level]) -> list[Problem]:
    """Compare the strides and channels that heads declare with those of their levels.

    Args:
        model: the config's model.
        levels: what the heads get, finest first.
    """
    problems = []
    for path, head in heads(model):
        problems += check_inputs(path, head, levels)
        anchors = head.get("anchor_generator") or head.get("prior_generator") or {}
        problems += _differ(f"{path}.anchor_generator.strides", anchors.get("strides"), levels)
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        part = (model.get("roi_head") or {}).get(name)
        if isinstance(part, Mapping):
            declared = part.get("featmap_strides")
            finest = levels[: len(declared or ())]
            problems += _differ(f"model.roi_head.{name}.featmap_strides", declared, finest)
    return problems


def check_inputs(path: str, head: Mapping[str, Any], levels: Sequence[Level]) -> list[Problem]:
    """Compare what a head of several levels declares of them with the levels themselves."""
    indices = head.get("in_index")
    if not isinstance(indices, Sequence) or not indices:
        return []
    if max(indices) >= len(levels):
        what = f"{path}.in_index={list(indices)}, and there are {len(levels)} levels"
        return [Problem(what, "lower in_index, or raise the neck's num_outs")]
    chosen = [levels[i] for i in indices]
    return [
        *_differ(f"{path}.in_channels", head.get("in_channels"), chosen, "channels"),
        *_differ(f"{path}.feature_strides", head.get("feature_strides"), chosen),
    ]


def _differ(
    name: str, declared: Any, levels: Sequence[Level], attribute: str = "stride"
) -> list[Problem]:
    """A problem if a list is declared that differs from the levels' numbers."""
    if not isinstance(declared, Sequence):
        return []
    actual = [getattr(level, attribute) for level in levels]
    if list(declared) in (actual, [(number, number) for number in actual]):
        return []
    names = ", ".join(level.name for level in levels)
    what = f"{name}={list(declared)}, and the {attribute} of {names} is {actual}"
    return [Problem(what, f"set it to {actual}")]
