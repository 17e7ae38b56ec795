"""The table of a model's feature levels, and heads that don't fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fpn_neck.cli.doctor.head_inputs import check_heads, check_inputs
from fpn_neck.cli.doctor.levels import ChannelsDiffer, Level, measure_levels
from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.datasets.check.heads import heads
from fpn_neck.utils.text import one_line


def examine_pyramid(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> Section:
    """The levels of the backbone and the neck for an image of ``size``.

    Args:
        config: of the model.
        model: on the meta device.
        size: (height, width) in px.
    """
    section = Section(f"pyramid of an image of {size[0]} x {size[1]} px (height x width)")
    levels = _measure(model, size, section)
    if levels is None:
        return section
    backbone_levels, neck_levels = levels
    section.header = ("level", "stride", "channels", "size", "source")
    section.rows += [_row(level) for level in (*backbone_levels, *neck_levels)]
    if any(type(part).__name__ == "FPN" for part in model.modules()):
        section.problems += check_heads(config, neck_levels or backbone_levels)
    elif not neck_levels:
        for path, head in heads(config):
            section.problems += check_inputs(path, head, backbone_levels)
    return section


def _row(level: Level) -> tuple[str, ...]:
    name, stride, channels, (height, width), source = level
    return name, str(stride), str(channels), f"{height}x{width}", source


def _measure(
    model: nn.Module, size: tuple[int, int], section: Section
) -> tuple[Sequence[Level], Sequence[Level]] | None:
    """See `measure_levels`; None, with the reason in the section, if the parts don't run."""
    backbone: Any = model.backbone
    try:
        return measure_levels(backbone, getattr(model, "neck", None), size)
    except ChannelsDiffer as e:
        section.problems.append(Problem(str(e), f"model.neck.in_channels={e.given}"))
    except (ValueError, TypeError) as e:
        why = one_line(e, with_type=True)
        what = f"backbone and neck don't run on {size[0]} x {size[1]} px: {why}"
        section.problems.append(Problem(what, "correct model.backbone and model.neck, or --size"))
    except Exception as e:  # an operator that needs numbers
        if "exists only compiled" in str(e):  # an operator that our bridge for mmcv lacks
            what, _, remedy = str(e).partition("; to use it, ")
            section.problems.append(Problem(what, remedy))
        else:
            section.rows.append(("unknown", one_line(e, with_type=True)))
    return None
