"""smp's FPN decoder as a decode head of mmseg, for a comparison at one recipe.

A config names it with ``custom_imports=dict(imports=['fpn_neck', 'study_parts.smp_head'])`` and
``type='SmpFPNHead'``; ``tools/train.py`` finds the module beside itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor


@MODELS.register_module()
class SmpFPNHead(BaseDecodeHead):
    """Maps C2..C5 of a backbone -> logits (N, K, H/4, W/4); pyramid and towers are smp's.

    smp's levels must halve exactly: images have to be multiples of 32 px.

    Args:
        pyramid_channels: width of the pyramid; ``channels`` is that of the towers.
        dropout_ratio: of smp's decoder.
        **kwargs: mmseg's ``BaseDecodeHead``. smp upsamples with ``align_corners=True``.
    """

    def __init__(
        self, pyramid_channels: int = 256, dropout_ratio: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(
            input_transform="multiple_select", dropout_ratio=0, align_corners=True, **kwargs
        )
        self.decoder = FPNDecoder(
            list(self.in_channels),
            pyramid_channels=pyramid_channels,
            segmentation_channels=self.channels,
            dropout=dropout_ratio,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.decoder(list(self._transform_inputs(inputs))))
