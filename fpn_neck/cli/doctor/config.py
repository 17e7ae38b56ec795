"""A config of mmdet or mmseg: whether it builds, and whether its parts fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fpn_neck.cli.doctor.classes import examine_classes
from fpn_neck.cli.doctor.environment import PACKAGES, installed
from fpn_neck.cli.doctor.pyramid import examine_pyramid
from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.build import build_without_weights
from fpn_neck.mm.config.load import load_config
from fpn_neck.mm.config.types import FRAMEWORKS, framework
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import data_sets, dicts, type_name

_DEFAULT_SIZE = (512, 512)


def examine_config(
    name: str,
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Section]:
    """The sections of the config, of its classes and heads, and of its feature levels.

    Args:
        name: a file, or one of an installed package: ``mmdet::path``.
        size: (height, width) in px of the image; None: the config's own.
        options: settings to override, see `load_config`.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or is not a config.
    """
    section = Section(f"config {name}")
    cfg = _load(name, section, options)
    if cfg is None:
        return [section]
    _examine_scope(cfg, section)
    if section.problems:
        return [section]
    section.rows.append(("model", type_name(cfg.model)))
    for part in ("backbone", "neck"):
        if isinstance(cfg.model.get(part), dict):
            section.rows.append((part, type_name(cfg.model[part])))
    sections = [section, examine_classes(cfg, name)]
    config_size = _image_size_or_default(cfg, section)
    model = _build(cfg, section)
    if model is not None and isinstance(getattr(model, "backbone", None), nn.Module):
        sections.append(examine_pyramid(cfg.model, model, size or config_size))
    return sections


def _load(name: str, section: Section, options: Mapping[str, Any] | None) -> Any:
    """The config; None, and a problem in the section, if its custom imports fail."""
    read_urls_safely()
    try:
        return load_config(name, options)
    except ImportError as e:  # of custom_imports
        what = f"{name} imports what is not there: {one_line(e.__cause__ or e, with_type=True)}"
        remedy = "install it, or correct custom_imports in the config"
        section.problems.append(Problem(what, remedy))
        return None


def _build(cfg: Any, section: Section) -> nn.Module | None:
    """The model without weights; None, and a problem in the section, if it can't be built."""
    try:
        return build_without_weights(cfg)
    except Exception as e:
        remedy = "correct what the message names in the config's model"
        if "is not in the" in str(e):
            remedy = (
                "correct the type, or import what registers it: "
                "custom_imports = dict(imports=['fpn_neck', ...])"
            )
        what = f"the model can't be built: {one_line(e, with_type=True)}"
        section.problems.append(Problem(what, remedy))
        return None


def _examine_scope(cfg: Any, section: Section) -> None:
    scope = framework(cfg)
    section.rows.append(("default_scope", str(cfg.get("default_scope"))))
    if scope not in FRAMEWORKS:
        what = f"default_scope={scope!r}: types are looked up in one of {FRAMEWORKS}"
        remedy = f"default_scope = '{FRAMEWORKS[0]}' or '{FRAMEWORKS[1]}'"
        section.problems.append(Problem(what, remedy))
    elif not installed(scope):
        what = f"default_scope={scope!r}, and {scope} is missing"
        section.problems.append(Problem(what, PACKAGES[scope][1]))
    if not cfg.get("model"):
        section.problems.append(Problem("the config has no model", "model = dict(type=...)"))


def _image_size_or_default(cfg: Any, section: Section) -> tuple[int, int]:
    try:
        return image_size(cfg) or _DEFAULT_SIZE
    except ValueError as e:
        section.problems.append(Problem(str(e), "give two whole numbers above 0"))
        return _DEFAULT_SIZE


def image_size(cfg: Any) -> tuple[int, int] | None:
    """(height, width) of a landscape image as the config's test pipeline makes it, in px.

    Raises:
        ValueError: the config has a size that is not two sides.
    """
    processor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if processor.get("size"):
        return _two_sides("data_preprocessor.size", processor["size"])
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    for dataset in data_sets(loader.get("dataset")):
        for _, step in dicts(dataset.get("pipeline")):
            if type_name(step) == "Resize" and isinstance(step.get("scale"), Sequence):
                width, height = _two_sides("scale of the test pipeline's Resize", step["scale"])
                unit = processor.get("pad_size_divisor") or 1
                return -(-height // unit) * unit, -(-width // unit) * unit
    return None


def _two_sides(name: str, value: Any) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{name}={value!r}: these are not two sides in px")
    return sides
