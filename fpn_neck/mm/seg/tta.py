"""mmseg's test-time augmentation, for one logit too."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import segmentors

from fpn_neck.mm.registry import MODELS


@MODELS.register_module()
class SegTTAModel(segmentors.SegTTAModel):
    """``mmseg.SegTTAModel``; of one logit, the mean of the probabilities against the threshold.

    ``seg_logits`` of a sample hold the probabilities of one logit. mmseg takes their sigmoid, which
    is 0.5 to 0.73, so that with its threshold of 0.3 every pixel becomes label 1.
    """

    def merge_preds(self, data_samples_list: list) -> list:
        """Samples of every view of a photo -> one sample with ``pred_sem_seg``, (1, H, W)."""
        merged = super().merge_preds(data_samples_list)
        if self.module.out_channels == 1:
            for sample, views in zip(merged, data_samples_list, strict=True):
                labels = self._labels(views)
                sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return merged

    def _labels(self, views: Any) -> torch.Tensor:
        probabilities = torch.stack([view.seg_logits.data for view in views]).mean(0)
        return (probabilities > self.module.decode_head.threshold).long()
