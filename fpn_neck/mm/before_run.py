"""What stops a run before anything is built: its checkpoint, its files, its config."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.registry import FUNCTIONS, OPTIMIZERS

from fpn_neck.datasets.check.findings import RefusedData
from fpn_neck.mm.config.data_sources import check_files
from fpn_neck.mm.config.evaluators import check_best, check_coco_settings, check_masks
from fpn_neck.mm.config.pipelines import check_evaluated
from fpn_neck.mm.config.sections import (
    check_length,
    check_levels,
    check_loader,
    check_metrics,
    check_schedule,
    require,
)
from fpn_neck.mm.config.types import framework, loops_by_iteration, type_class
from fpn_neck.weights.checkpoints import load_checkpoint


def refusals(cfg: Config, config: str, *splits: str, files: bool = True) -> list[str]:
    """What would stop or spoil a run, a line each; a single reason may be raised instead.

    Args:
        cfg: the run's config, see `fpn_neck.mm.prepare`.
        config: the name of its file.
        splits: of 'train', 'val', 'test', those that the run uses.
        files: whether to have a quick look at the data, too.

    Raises:
        FileNotFoundError, ValueError: ``load_from`` can't be read; see `check_data`.
    """
    if cfg.get("load_from") and "://" not in cfg.load_from:
        load_checkpoint(cfg.load_from)
    if files:
        try:
            check_files(cfg, config, *splits)
        except RefusedData as refused:
            every = f"fpn-neck check {config}, with the same --cfg-options, shows all"
            hint = f"{every}; --no-check skips this check"
            return [*(f"error: {line}" for line in refused.brief()), hint]
    check_data(cfg, *splits)
    return []


def check_data(cfg: Config, *splits: str) -> None:
    """Refuse proposals, missing sections, loaders, a training of no step, levels, metrics.

    Args:
        splits: the first one is 'train' or 'test', which the run is for.

    Raises:
        FileNotFoundError, ValueError, TypeError: see `check_proposal_files`, `require`,
            `check_loader`, `check_length`, `check_schedule`, `check_levels`, `check_metrics`,
            `check_masks`, `check_coco_settings`, `check_evaluated` and `check_best`.
    """
    if framework(cfg) == "mmdet":
        from fpn_neck.mm.det.config_proposals import check_proposal_files

        check_proposal_files(cfg, *splits)
    last = "optim_wrapper" if splits[0] == "train" else f"{splits[0]}_evaluator"
    require(cfg, "model", f"{splits[0]}_dataloader", f"{splits[0]}_cfg", last)
    for split in splits:
        if cfg.get(f"{split}_dataloader"):
            check_loader(f"{split}_dataloader", cfg[f"{split}_dataloader"])
            _check_collate(cfg, f"{split}_dataloader")
    if splits[0] == "train":
        check_length(cfg.train_cfg)
        check_schedule(cfg, by_iterations=loops_by_iteration(cfg.train_cfg))
        _check_optimizer(cfg)
    check_levels(cfg.model.get("module") or cfg.model)  # of a model for test-time augmentation
    for split in set(splits) & {"val", "test"}:
        check_metrics(f"{split}_evaluator", cfg.get(f"{split}_evaluator"))
        check_masks(cfg, split)
        check_coco_settings(cfg, split)
        check_evaluated(cfg, split)
    if set(splits) >= {"train", "val"}:
        check_best(cfg)


def _check_collate(cfg: Config, name: str) -> None:
    """Refuse an unknown ``collate_fn``, of which torch says only that it is not callable."""
    if "collate_fn" not in cfg[name] or callable(cfg[name].collate_fn):
        return
    given, what = cfg[name].collate_fn, f"config: {name}.collate_fn"
    remedy = "leave collate_fn out for mmengine's own"
    if not isinstance(given, Mapping) or not given.get("type"):
        raise TypeError(f"{what}={given!r}: expected a dict with the key 'type'; or {remedy}")
    if isinstance(given["type"], str) and FUNCTIONS.get(given["type"]) is None:
        near = get_close_matches(given["type"], FUNCTIONS.module_dict, n=3)
        raise ValueError(
            f"{what}.type={given['type']!r}: no such function; near: {near}; or {remedy}"
        )


def _check_optimizer(cfg: Config) -> None:
    """Refuse an optimizer at which mmengine fails without naming it."""
    optimizer, name = cfg.optim_wrapper.get("optimizer"), "config: optim_wrapper.optimizer"
    if not isinstance(optimizer, Mapping) or "type" not in optimizer:
        return  # the config's own constructor knows its settings
    if type_class(optimizer, OPTIMIZERS, cfg.get("default_scope")) is None:
        near = get_close_matches(optimizer["type"], OPTIMIZERS.module_dict, n=3)
        raise ValueError(f"{name}.type={optimizer['type']!r}: no such optimizer; near: {near}")
    for key in ("lr", "weight_decay"):
        if isinstance(optimizer.get(key), str):
            raise TypeError(f"{name}.{key}={optimizer[key]!r}: expected a number, not a text")
