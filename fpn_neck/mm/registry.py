"""mmengine's registries of the scope ``fpn_neck``; see `fpn_neck.registry`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine import registry as root

from fpn_neck.models.backbones import BUILDERS

# framework -> the module that registers this package's classes for it
_PARTS = {"mmdet": "fpn_neck.mm.det", "mmseg": "fpn_neck.mm.seg"}
_FRAMEWORKS = [name for name in _PARTS if find_spec(name)]


class _Registry(root.Registry):
    """Imports a framework's part of this package only for a name that is not registered yet.

    So ``fpn_neck.FPN`` in an mmdet config does not import mmseg, which takes seconds.
    """

    def get(self, key: str) -> type | None:
        self.import_from_location()
        # Frameworks that are already imported come first.
        for framework in sorted(_FRAMEWORKS, key=lambda name: name not in sys.modules):
            if key.rpartition(".")[2] not in self.module_dict:
                import_module(_PARTS[framework])
        return super().get(key)


def _child(parent: root.Registry) -> _Registry:
    return _Registry(
        parent.name,
        parent=parent,
        scope="fpn_neck",
        locations=["fpn_neck.mm.register"],
    )


MODELS = _child(root.MODELS)
DATASETS = _child(root.DATASETS)
TRANSFORMS = _child(root.TRANSFORMS)
METRICS = _child(root.METRICS)
HOOKS = _child(root.HOOKS)
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS)
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS)
STRATEGIES = _child(root.STRATEGIES)


def _build_backbone(config: Mapping[str, Any]) -> Any:
    """A backbone of the current scope, for `fpn_neck.models.backbones.build_backbone`."""
    try:
        return MODELS.build(config)
    except Exception as e:  # of any type, for a name that is not registered too
        raise ValueError(f"backbone={dict(config)} can't be built: {e}") from e


BUILDERS[Mapping] = _build_backbone
