"""The old place of `fpn_neck.models.torchvision_backbone`."""

import warnings

from fpn_neck.models.torchvision_backbone import P2_TO_P6, P3_TO_P7, FPNBackbone

__all__ = ["FPNBackbone", "P2_TO_P6", "P3_TO_P7"]

warnings.warn(
    "fpn_neck.integrations.torchvision is now fpn_neck.models.torchvision_backbone; the old name "
    "goes with 0.2",
    DeprecationWarning,
    stacklevel=2,
)
