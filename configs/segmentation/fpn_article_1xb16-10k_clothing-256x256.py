# The article's model on correct labels: ResNet-34, pyramid 64, 3x3 chained in the top-down path,
# segmentation 32, GN, sum, dropout 0.2, x4 bilinear, only Dice, whole photos at 256 x 256.
# Masks are resized by nearest neighbour and stay label indices (the article resized them
# bilinearly and scaled them to 0..1).
_base_ = ['../_base_/fpn_lite0.py', '../_base_/clothing.py', '../_base_/runtime.py']
size = (256, 256)
model = dict(
    data_preprocessor=dict(
        size=size, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(  # pretrained=True where timm may download ImageNet weights
        _delete_=True, type='fpn_neck.TimmBackbone', model_name='resnet34', pretrained=False),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64, smooth='chained'),
    decode_head=dict(
        in_channels=[64] * 4,
        channels=32,
        dropout_ratio=0.2,
        num_classes=59,
        align_corners=True,
        norm_cfg=dict(type='GN', num_groups=32),
        loss_decode=dict(_delete_=True, type='fpn_neck.DiceLoss')))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 10000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=0),
]
