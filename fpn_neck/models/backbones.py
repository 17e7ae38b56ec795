"""From what a user gives as a backbone to a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fpn_neck.utils.arguments import check_options


def build_backbone(
    backbone: str | nn.Module, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The `TimmBackbone` of that name, or the module as it is.

    Args:
        options: further arguments of `TimmBackbone`; only with a name.

    Raises:
        TypeError: options for a module, or no dict.
    """
    options = check_options("backbone_options", options)
    if isinstance(backbone, str):
        from fpn_neck.models.timm_backbone import TimmBackbone  # timm only when asked for

        return TimmBackbone(backbone, **options)
    if options:
        raise TypeError(
            f"backbone_options={options!r} go with the name of a timm model, not with a "
            f"{type(backbone).__name__}; set them on the module itself"
        )
    return backbone
