"""Hooks by which any mmengine training survives crashes, bad batches and being stopped."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine import hooks
from mmengine.config import Config
from mmengine.registry import HOOKS

from fpn_neck.mm.config.types import type_class
from fpn_neck.mm.training import (  # noqa: F401 (register)
    checkpoint_hook,
    finite_loss_hook,
    label_hook,
    randomness_hook,
    runtime_info_hook,
    termination_hook,
    validation_hook,
)


def install_hooks(cfg: Config, *, skip_nan: bool = False) -> None:
    """Add this package's hooks for training to a config of any framework.

    mmengine's CheckpointHook and RuntimeInfoHook are replaced by this package's, with the same
    settings. Other hooks in their places are kept.

    Args:
        skip_nan: drop batches whose loss is not finite, instead of stopping.

    Raises:
        ValueError: the checkpoint hook has a setting that mmengine's hook does not have.
    """
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))
    checkpoint, scope = cfg.default_hooks.checkpoint, cfg.get("default_scope")
    if checkpoint and type_class(checkpoint, HOOKS, scope) is hooks.CheckpointHook:
        _check_settings(checkpoint)
        checkpoint.type = "fpn_neck.CheckpointHook"
    cfg.default_hooks.setdefault("runtime_info", dict(type="RuntimeInfoHook"))
    info = cfg.default_hooks.runtime_info
    if info is not None and info.get("type") in (
        None,
        "RuntimeInfoHook",
        "mmengine.RuntimeInfoHook",
    ):
        info.type = "fpn_neck.RuntimeInfoHook"
    added: list[dict[str, Any]] = [
        dict(type="fpn_neck.RandomnessHook"),
        dict(type="fpn_neck.FiniteLossHook", skip=skip_nan),
        dict(type="fpn_neck.LabelHook"),
        dict(type="fpn_neck.ArrivalHook"),
        dict(type="fpn_neck.TerminationHook"),
        dict(type="fpn_neck.ValidationHook"),
    ]
    own = {type_class(hook, HOOKS, scope) for hook in added}
    given = cfg.get("custom_hooks") or []
    others = [hook for hook in given if type_class(hook, HOOKS, scope) not in own]
    cfg.custom_hooks = [*others, *added]


def _check_settings(checkpoint: Mapping[str, Any]) -> None:
    """mmengine's hook accepts any setting, and fails with unknown ones at the first save."""
    parameters = inspect.signature(hooks.CheckpointHook).parameters
    known = [name for name in parameters if name != "kwargs"]
    for name in checkpoint:
        if name not in (*known, "type", "priority", "_scope_"):
            what = f"config: default_hooks.checkpoint.{name}={checkpoint[name]!r}"
            raise ValueError(f"{what}: mmengine's CheckpointHook takes one of {known}")
