"""The old place of `fpn_neck.models.timm_backbone`."""

import warnings

from fpn_neck.models.timm_backbone import LITE0_MODEL, LITE0_PACKAGE, TimmBackbone

__all__ = ["LITE0_MODEL", "LITE0_PACKAGE", "TimmBackbone"]

warnings.warn(
    "fpn_neck.integrations.timm is now fpn_neck.models.timm_backbone; the old name goes with 0.2",
    DeprecationWarning,
    stacklevel=2,
)
