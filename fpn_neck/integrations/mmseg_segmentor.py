"""mmseg's segmentor, with predictions that need no logits at the photo's size."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import segmentors
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from fpn_neck.label_map import fill_labels
from fpn_neck.registry import MODELS
from fpn_neck.row_map import RowMap


@MODELS.register_module()
class EncoderDecoder(segmentors.EncoderDecoder):
    """``mmseg.EncoderDecoder``; predictions carry labels, and no logits unless asked for.

    mmseg resizes all logits to the network's input and again to the photo: 4.7 GB for 194 classes
    at 2000 x 3000 px, kept in every prediction. Here both steps run over a few rows at a time;
    labels are the same except where two logits tie within rounding. mmseg's own way is taken with
    ``test_cfg=dict(keep_logits=True)``, which test-time augmentation needs, with
    ``mode='slide'``, for flipped images, one logit, and heads with a way of their own.
    """

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Images (N, 3, H, W) and their samples -> samples with ``pred_sem_seg``, (1, H, W)."""
        if data_samples is None or not self._by_rows(data_samples):
            return super().predict(inputs, data_samples)
        logits = self.decode_head(self.extract_feat(inputs))
        padded = data_samples[0].metainfo
        size = padded.get("pad_shape", padded["img_shape"])[:2]
        for image, sample in zip(logits.split(1), data_samples, strict=True):
            meta = sample.metainfo
            left, right, top, bottom = meta.get(
                "img_padding_size", meta.get("padding_size", [0] * 4)
            )
            inside = size[0] - top - bottom, size[1] - left - right
            maps = RowMap.of(image).resize(size, self.align_corners).crop(top, left, *inside)
            labels = image.new_empty((1, *meta["ori_shape"][:2]), dtype=torch.int64)
            fill_labels(maps.resize(meta["ori_shape"][:2], self.align_corners), labels)
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return data_samples

    def _by_rows(self, data_samples: list) -> bool:
        own: list[Any] = [type(self.decode_head).predict, type(self.decode_head).predict_by_feat]
        return (
            own == [BaseDecodeHead.predict, BaseDecodeHead.predict_by_feat]
            and self.out_channels > 1
            and self.test_cfg.get("mode", "whole") == "whole"
            and not self.test_cfg.get("keep_logits", False)
            and not any(sample.metainfo.get("flip") for sample in data_samples)
        )
