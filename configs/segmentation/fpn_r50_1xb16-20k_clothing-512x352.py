# For a GPU: ResNet-50, the paper's 256 channels, photos at 384 x 576 px on average.
_base_ = ['../_base_/fpn_lite0.py', '../_base_/clothing.py', '../_base_/runtime.py']
crop_size = (512, 352)
scale = (384, 576)
model = dict(
    data_preprocessor=dict(
        size=crop_size, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='fpn_neck.TimmBackbone',
        model_name='resnet50',
        pretrained=True,  # timm downloads them; or checkpoint='file.pth', pretrained=False
        frozen_levels=1,
        norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048], out_channels=256),
    decode_head=dict(in_channels=[256] * 4, channels=128, num_classes=59))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.35), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', hue_delta=9),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=s, keep_ratio=True) for s in [(320, 480), scale, (448, 672)]],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]
train_dataloader = dict(num_workers=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 20000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=500, end=max_iters, eta_min=0),
]
