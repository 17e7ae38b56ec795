"""Test-time augmentation, as mmseg's and mmdet's configs describe it."""

from __future__ import annotations

from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from fpn_neck.mm.config.sections import require
from fpn_neck.mm.config.types import framework, type_class
from fpn_neck.utils.walk import data_sets


def use_tta(cfg: Config) -> None:
    """mmseg's and mmdet's way: a model that merges the predictions of an augmented pipeline.

    Raises:
        ValueError: the config has no ``tta_model`` or no ``tta_pipeline``; mmdet's merges no masks.
    """
    if "tta_pipeline" not in cfg or "tta_model" not in cfg:
        raise ValueError("--tta needs tta_model and tta_pipeline in the config")
    require(cfg, "model", "test_dataloader")
    tta_model, scope = ConfigDict(cfg.tta_model), framework(cfg)
    kind = type_class(tta_model, MODELS, cfg.get("default_scope") or scope)
    is_stock = getattr(kind, "__module__", "").startswith(f"{scope}.")
    if scope == "mmseg":  # its TTA model averages logits
        cfg.model.setdefault("test_cfg", ConfigDict()).keep_logits = True
        if is_stock:
            tta_model.type = "fpn_neck.SegTTAModel"  # mmseg's own is wrong for one logit
    elif is_stock and any(
        "mask_head" in part for part in (cfg.model, cfg.model.get("roi_head") or {})
    ):
        raise ValueError("--tta: mmdet's DetTTAModel merges boxes, no masks; leave out --tta")
    cfg.model = ConfigDict(**tta_model, module=cfg.model)
    for part in data_sets(cfg.test_dataloader.dataset):
        part["pipeline"] = deepcopy(cfg.tta_pipeline)
