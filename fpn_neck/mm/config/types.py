"""What a ``type`` in a config stands for: a name, a name with a scope, or a class."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import getmro, isclass
from typing import Any

from mmengine.registry import LOOPS, MODELS, DefaultScope, Registry
from mmengine.runner import IterBasedTrainLoop

FRAMEWORKS = ("mmdet", "mmseg")


def type_class(part: Mapping[str, Any], registry: Registry, scope: str | None) -> Any:
    """The class that a config's part is built from; None if it is not registered.

    Args:
        registry: one of mmengine's root registries.
        scope: where names without a scope are looked up.
    """
    kind = part.get("type")
    if not isinstance(kind, str):
        return kind
    with (
        DefaultScope.overwrite_default_scope(part.get("_scope_", scope)),
        registry.switch_scope_and_registry(None) as known,
    ):
        return known.get(kind)


def loops_by_iteration(train_cfg: Mapping[str, Any]) -> bool:
    """Whether a training's loop counts iterations; one of a class that is not known does not."""
    kind = train_cfg.get("type")
    if kind is None:
        return not train_cfg.get("by_epoch", True)
    loop = LOOPS.get(kind) if isinstance(kind, str) else kind
    return isclass(loop) and issubclass(loop, IterBasedTrainLoop)


def framework(cfg: Mapping[str, Any]) -> str | None:
    """``default_scope``, or 'mmdet' or 'mmseg' by the class of the model.

    mmengine's Python configs need no ``default_scope``.
    """
    scope, model = cfg.get("default_scope"), cfg.get("model")
    if scope or not isinstance(model, Mapping):
        return scope
    kind = type_class(model, MODELS, None)
    packages = [c.__module__.partition(".")[0] for c in getmro(kind)] if isclass(kind) else []
    return next((package for package in packages if package in FRAMEWORKS), None)
