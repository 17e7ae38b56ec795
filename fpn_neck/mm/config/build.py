"""Build a config's model without weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from fpn_neck.mm.config.load import drop_pretraining
from fpn_neck.mm.config.types import framework


def build_without_weights(cfg: Mapping[str, Any]) -> nn.Module:
    """The model of a config on the meta device: no weights are drawn, loaded or downloaded.

    Raises:
        Exception: what a constructor raises.
    """
    model = copy.deepcopy(cfg["model"])
    drop_pretraining(model)
    try:
        return _build(model, "meta", framework(cfg))
    except RuntimeError as e:
        if "meta" not in str(e):
            raise
        return _build(model, "cpu", framework(cfg))  # a constructor that computes with tensors


def _build(model: Any, device: str, scope: str | None) -> nn.Module:
    model = copy.deepcopy(model)  # some constructors change their arguments
    with DefaultScope.overwrite_default_scope(scope), torch.device(device):
        return MODELS.build(model).to("meta")
