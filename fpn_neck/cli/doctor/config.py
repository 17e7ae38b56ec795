"""A config of mmdet or mmseg: does it build, do its parts fit together?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fpn_neck.cli.doctor.environment import MM, PACKAGES, installed
from fpn_neck.cli.doctor.pyramid import ChannelsDiffer, pyramid
from fpn_neck.cli.doctor.section import Problem, Section, reason
from fpn_neck.utils.walk import data_sets

_SCOPES = ("mmdet", "mmseg")
_DEFAULT_SIZE = (512, 512)


def examine_config(name: str, size: tuple[int, int] | None = None) -> list[Section]:
    """Classes against heads, and the pyramid table.

    Args:
        name: a file, or one of an installed package: ``mmdet::path``.
        size: (height, width) in px of the image; None: the config's own.

    Raises:
        FileNotFoundError, ValueError: there is no such config, or it is none.
    """
    section = Section(f"config {name}")
    if not installed("mmengine"):
        section.problems.append(Problem(f"{name} can't be read: mmengine is missing", MM))
        return [section]
    try:  # neither may be imported with torch alone
        from fpn_neck.cli.doctor.classes import examine_classes
        from fpn_neck.mm.checkpoint_reader import read_urls_safely
        from fpn_neck.mm.config.load import load_config
    except Exception as e:
        section.problems.append(Problem(f"{name} can't be read: {reason(e)}", MM))
        return [section]
    read_urls_safely()
    try:
        cfg = load_config(name)
    except ImportError as e:  # of custom_imports
        what = f"{name} imports what is not there: {reason(e.__cause__ or e)}"
        remedy = "install it, or correct custom_imports in the config"
        section.problems.append(Problem(what, remedy))
        return [section]
    scope = cfg.get("default_scope")
    section.rows.append(("default_scope", str(scope)))
    if scope not in _SCOPES:
        what = f"default_scope={scope!r}: types are looked up in one of {_SCOPES}"
        section.problems.append(Problem(what, f"default_scope = '{_SCOPES[0]}' or '{_SCOPES[1]}'"))
    elif not installed(scope):
        what = f"default_scope={scope!r}, and {scope} is missing"
        section.problems.append(Problem(what, PACKAGES[scope][1]))
    if not cfg.get("model"):
        section.problems.append(Problem("the config has no model", "model = dict(type=...)"))
    if section.problems:
        return [section]
    section.rows.append(("model", str(cfg.model.get("type"))))
    sections = [section, examine_classes(cfg, name)]
    own = _DEFAULT_SIZE
    try:
        own = image_size(cfg)
    except ValueError as e:
        section.problems.append(Problem(str(e), "give two whole numbers above 0"))
    model = _build(cfg, section)
    if model is not None and isinstance(getattr(model, "backbone", None), nn.Module):
        sections.append(_pyramid(cfg, model, size or own))
    return sections


def _build(cfg: Any, section: Section) -> nn.Module | None:
    """The model without weights: none are drawn, loaded or downloaded."""
    from mmengine.registry import MODELS, DefaultScope

    from fpn_neck.mm.config.load import drop_pretraining

    drop_pretraining(cfg.model)

    def build(device: str) -> nn.Module:
        model = copy.deepcopy(cfg.model)  # some constructors change their arguments
        with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device(device):
            return MODELS.build(model).to("meta")

    try:
        try:
            return build("meta")
        except RuntimeError as e:
            if "meta" not in str(e):
                raise
            return build("cpu")  # a constructor that computes with tensors
    except Exception as e:
        remedy = "correct what the message names in the config's model"
        if "is not in the" in str(e):
            remedy = (
                "correct the type, or import what registers it: "
                "custom_imports = dict(imports=['fpn_neck', ...])"
            )
        section.problems.append(Problem(f"the model can't be built: {reason(e)}", remedy))
        return None


def image_size(cfg: Any) -> tuple[int, int]:
    """(height, width) of a landscape image as the config's test pipeline makes it, in px.

    Raises:
        ValueError: the config's are no two sides.
    """
    processor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if processor.get("size"):
        return _two_sides("data_preprocessor.size", processor["size"])
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    for dataset in data_sets(loader.get("dataset")):
        for step in dataset.get("pipeline") or []:
            if step.get("type") == "Resize" and isinstance(step.get("scale"), Sequence):
                width, height = _two_sides("scale of the test pipeline's Resize", step["scale"])
                unit = processor.get("pad_size_divisor") or 1
                return -(-height // unit) * unit, -(-width // unit) * unit
    return _DEFAULT_SIZE


def _two_sides(name: str, value: Any) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{name}={value!r}: these are no two sides in px")
    return sides


def _pyramid(cfg: Any, model: nn.Module, size: tuple[int, int]) -> Section:
    from fpn_neck.cli.doctor.strides import check_heads, check_inputs
    from fpn_neck.datasets.check.heads import heads

    section = Section(f"pyramid of an image of {size[0]} x {size[1]} px (height x width)")
    try:
        given, made = pyramid(model.backbone, getattr(model, "neck", None), size)
    except ChannelsDiffer as e:
        section.problems.append(Problem(str(e), f"model.neck.in_channels={e.given}"))
        return section
    except (ValueError, TypeError) as e:
        what = f"backbone and neck don't run on {size[0]} x {size[1]} px: {reason(e)}"
        section.problems.append(Problem(what, "correct model.backbone and model.neck, or --size"))
        return section
    except Exception as e:  # an operator that needs numbers
        if "exists only compiled" in str(e):  # one that our bridge for mmcv lacks
            what, _, remedy = str(e).partition("; to use it, ")
            section.problems.append(Problem(what, remedy))
            return section
        section.rows.append(("unknown", reason(e)))
        return section
    section.rows.append(("level", "stride", "channels", "size", "source"))
    for name, stride, channels, cells, source in (*given, *made):
        section.rows.append((name, str(stride), str(channels), f"{cells[0]}x{cells[1]}", source))
    if any(type(part).__name__ == "FPN" for part in model.modules()):
        section.problems += check_heads(cfg.model, made or given)
    elif not made:
        for path, head in heads(cfg.model):
            section.problems += check_inputs(path, head, given)
    return section
