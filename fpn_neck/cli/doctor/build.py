"""Build a config's model without weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.mm.config.load import drop_pretraining
from fpn_neck.mm.config.types import framework
from fpn_neck.utils.text import one_line


def build_without_weights(cfg: Any, section: Section) -> nn.Module | None:
    """The model on the meta device: no weights are drawn, loaded or downloaded.

    Returns None, and adds a problem to the section, if it can't be built.
    """
    drop_pretraining(cfg.model)
    try:
        try:
            return _build(cfg, "meta")
        except RuntimeError as e:
            if "meta" not in str(e):
                raise
            return _build(cfg, "cpu")  # a constructor that computes with tensors
    except Exception as e:
        remedy = "correct what the message names in the config's model"
        if "is not in the" in str(e):
            remedy = (
                "correct the type, or import what registers it: "
                "custom_imports = dict(imports=['fpn_neck', ...])"
            )
        section.problems.append(
            Problem(f"the model can't be built: {one_line(e, with_type=True)}", remedy)
        )
        return None


def _build(cfg: Any, device: str) -> nn.Module:
    model = copy.deepcopy(cfg.model)  # some constructors change their arguments
    with DefaultScope.overwrite_default_scope(framework(cfg)), torch.device(device):
        return MODELS.build(model).to("meta")
