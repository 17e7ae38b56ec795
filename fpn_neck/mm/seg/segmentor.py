"""mmseg's segmentor, with predictions without logits at the photo's size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import segmentors
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from fpn_neck.fast.eligible import keeps
from fpn_neck.mm.registry import MODELS
from fpn_neck.mm.seg.head import FPNHead
from fpn_neck.mm.seg.logits import LazyLogits
from fpn_neck.models.tiled_head import PHOTO_TILE, can_tile, is_large, logits_by_tiles
from fpn_neck.strips.label_map import fill_labels
from fpn_neck.strips.row_map import RowMap

# What mmseg calls between the maps and the samples.
_OF_MODEL = ("inference", "whole_inference", "encode_decode", "postprocess_result")


@MODELS.register_module()
class EncoderDecoder(segmentors.EncoderDecoder):
    """``mmseg.EncoderDecoder``; predictions hold labels, and logits only if they are read.

    mmseg resizes all logits to the network's input and again to the photo: 4.7 GB for 194 classes
    at 2000 x 3000 px, kept in every prediction. This class runs both steps over a few rows at a
    time. The labels are the same, except where two logits are equal within rounding; they are
    integers for one logit too. ``sample.seg_logits.data`` is computed when it is first read, e.g.
    by mmseg's ``SegTTAModel``; until then a sample keeps the head's own, smaller maps. mmseg's
    code still runs with ``test_cfg=dict(keep_logits=True)``, with ``mode='slide'``, for flipped
    images, for heads and subclasses with their own methods between the maps and the labels, and
    outside of ``torch.no_grad()``.

    In validation, testing and prediction, inputs of more than ``2 * tile**2`` px are taken in
    overlapping tiles of about ``tile`` px a side, see `fpn_neck.models.tiled_head`;
    ``test_cfg=dict(tile=...)`` sets the size, None turns tiles off. Tiles need `fpn_neck.FPNHead`
    and a data preprocessor that does not pad in testing.
    """

    def test_step(self, data: dict) -> list:
        """What the data loader gives -> samples with ``pred_sem_seg``, (1, H, W)."""
        if not self._in_tiles(data):
            return super().test_step(data)
        data = self.data_preprocessor.cast_data(data)
        for photo, sample in zip(data["inputs"], data["data_samples"], strict=True):
            self._set_labels(sample, self._logits_by_tiles(photo), photo.shape[-2:])
        return data["data_samples"]

    def val_step(self, data: dict) -> list:
        """See `test_step`."""
        return self.test_step(data)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Images (N, 3, H, W) and their samples -> samples with ``pred_sem_seg``, (1, H, W)."""
        if data_samples is None or not self._by_rows(data_samples):
            return super().predict(inputs, data_samples)
        logits = self.decode_head(self.extract_feat(inputs))
        if logits.requires_grad:  # strips have no gradient
            metas = [sample.metainfo for sample in data_samples]
            return self.postprocess_result(
                self.decode_head.predict_by_feat(logits, metas), data_samples
            )
        padded = data_samples[0].metainfo
        size = padded.get("pad_shape", padded["img_shape"])[:2]
        for image, sample in zip(logits.split(1), data_samples, strict=True):
            self._set_labels(sample, RowMap.from_tensor(image).finite(), size)
        return data_samples

    def _set_labels(self, sample: Any, logits: RowMap, size: Sequence[int]) -> None:
        """Logits (1, K, h, w) of a padded input of this size -> labels of the photo's size."""
        meta = sample.metainfo
        left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
        inside = size[0] - top - bottom, size[1] - left - right
        maps = logits.resize(size, self.align_corners).crop(top, left, *inside)
        maps = maps.resize(meta["ori_shape"][:2], self.align_corners)
        labels = logits.like.new_empty((1, *maps.shape[2:]), dtype=torch.int64)
        if self.out_channels > 1:
            fill_labels(maps, labels)
        else:
            for rows, strip in maps.strips():
                labels[:, rows] = strip[:, 0].sigmoid() > self.decode_head.threshold
        seg_logits = LazyLogits(partial(_whole, maps))
        sample.set_data({"pred_sem_seg": PixelData(data=labels), "seg_logits": seg_logits})

    def postprocess_result(self, seg_logits: Tensor, data_samples: list | None = None) -> list:
        """mmseg's; labels of one logit become integers, as all others are."""
        samples = super().postprocess_result(seg_logits, data_samples)
        for sample in samples:
            sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
        return samples

    def _by_rows(self, data_samples: list) -> bool:
        return (
            keeps(self, EncoderDecoder, *_OF_MODEL)
            and keeps(self.decode_head, BaseDecodeHead, "predict", "predict_by_feat")
            and self.test_cfg.get("mode", "whole") == "whole"
            and not self.test_cfg.get("keep_logits", False)
            and not any(sample.metainfo.get("flip") for sample in data_samples)
        )

    def _in_tiles(self, data: dict) -> bool:
        photos, samples = data["inputs"], data.get("data_samples")
        tile = self.test_cfg.get("tile", PHOTO_TILE)
        return (
            any(is_large(photo.shape[-2:], tile) for photo in photos)
            and samples is not None
            and self._by_rows(samples)
            and not getattr(self.data_preprocessor, "test_cfg", None)
            and keeps(self, EncoderDecoder, "forward", "_run_forward", "predict")
            and can_tile(self, self.decode_head, FPNHead)
        )

    def _logits_by_tiles(self, photo: Tensor) -> RowMap:
        """Logits of a photo as the data set's pipeline gives it, uint8 (3, H, W)."""
        head = self.decode_head

        def pyramid_of(rows: slice, columns: slice) -> Sequence[Tensor]:
            data = {"inputs": [photo[:, rows, columns]], "data_samples": None}
            tile = self.data_preprocessor(data, False)["inputs"]
            return head._transform_inputs(self.extract_feat(tile))

        tile = self.test_cfg.get("tile", PHOTO_TILE)
        return logits_by_tiles(pyramid_of, photo.shape[-2:], head.scale_heads, head.cls_seg, tile)


def _whole(maps: RowMap) -> Tensor:
    """Logits (1, K, H, W) -> (K, H, W); of one logit the sigmoid, as mmseg's samples hold it."""
    logits = maps.rows(0, maps.shape[2])[0]
    return logits if len(logits) > 1 else logits.sigmoid()
