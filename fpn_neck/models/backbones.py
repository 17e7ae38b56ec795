"""From the arguments ``backbone`` and ``neck`` to a module and to the options of an `FPN`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fpn_neck.utils.values import check_options


def _build_timm_backbone(name: str, **options: Any) -> nn.Module:
    from fpn_neck.models.timm_backbone import TimmBackbone  # timm is optional

    return TimmBackbone(name, **options)


# Type of the argument -> what builds the module. `fpn_neck.mm.registry` adds mmengine's configs
# (dictionaries with a type). Only names take options.
BUILDERS: dict[type, Callable[..., nn.Module]] = {str: _build_timm_backbone}


def build_backbone(backbone: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Build a backbone by the first type in `BUILDERS` that fits; else return it as it is.

    Args:
        backbone: name of a timm model, a module, or (after ``import fpn_neck.registry``) a config.
        options: further arguments of `TimmBackbone`; only with a name.

    Raises:
        TypeError: ``options`` without a name, or not a dict; a config without mmengine's registry.
        ValueError: the backbone cannot be built.
    """
    options = check_options("backbone_options", options)
    if options and not isinstance(backbone, str):
        raise TypeError(
            f"backbone_options={options!r} go with the name of a timm model, not with a "
            f"{type(backbone).__name__}; set them on the module itself"
        )
    for kind, build in BUILDERS.items():
        if isinstance(backbone, kind):
            return build(backbone, **options)
    if isinstance(backbone, Mapping):
        raise TypeError(
            f"backbone={dict(backbone)}: a config is built by mmengine's registry, which is not "
            "loaded; import fpn_neck.registry first, or give a module or a timm model's name"
        )
    return backbone


def neck_options(neck: Any, fpn: Any = None) -> dict[str, Any]:
    """A new dict of `FPN`'s further arguments.

    Args:
        neck: the argument of that name.
        fpn: the same under its old name, which goes with 0.2.

    Raises:
        TypeError: not a dict, both names, or arguments that are known already.
    """
    if fpn is not None:
        if neck is not None:
            raise TypeError(f"neck={neck!r} and fpn={fpn!r}: fpn is the old name; give only neck")
        warnings.warn("fpn= is now neck=; the old name goes with 0.2", DeprecationWarning, 3)
        neck = fpn
    options = check_options("neck", neck)
    if "type" in options or "in_channels" in options:
        raise TypeError(
            f"neck={options}: the type is always FPN, and in_channels are what the backbone "
            "declares; leave them out"
        )
    return options
