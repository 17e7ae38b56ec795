"""Small parts of mmseg: labels as samples, and a whole segmentor."""

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

K = 5
STRIDES = [4, 8, 16, 32]
BN = {"type": "BN"}


def truth(height, width, batch=2):
    """Labels with ignored pixels."""
    labels = torch.randint(0, K, (batch, 1, height, width))
    labels[:, :, :3] = 255
    return samples_of(labels[:, 0]), labels[:, 0]


def samples_of(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=x[None])) for x in labels]


def segmentor(neck, decode_head, type="EncoderDecoder", **options):
    cfg = dict(
        type=type,
        data_preprocessor=dict(type="SegDataPreProcessor"),
        backbone=dict(type="ResNetV1c", depth=18, base_channels=8, norm_cfg=BN),
        neck=dict(type=neck, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
        decode_head=dict(
            type=decode_head,
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=STRIDES,
            channels=16,
            num_classes=K,
            dropout_ratio=0.1,
            norm_cfg=BN,
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss"),
        )
        | options,
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(ConfigDict(cfg))
