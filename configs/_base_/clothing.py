# "People Clothing Segmentation" in Kaggle's layout (tools/prepare_clothing.py checks it).
# Photos are 550 px wide and about 825 px high. Training sees them at about 256 x 384 px, testing at
# 320 x 480, which outlines them better and is still within the scales seen in training.
data_root = '{{$CLOTHING_ROOT:data/clothing}}'
crop_size = (320, 224)  # height, width
scale = (256, 384)  # the size a photo is fitted into, width, height
test_scale = (320, 480)
tta_scales = [(256, 384), (320, 480), (384, 576)]  # each with its mirror image

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
    dict(type='Resize', scale=test_scale, keep_ratio=True),
    dict(type='LoadAnnotations'),  # after Resize: the metric is taken at the photo's own size
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True) for scale in tta_scales],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='fpn_neck.ClothingDataset',
        data_root=data_root,
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='fpn_neck.ClothingDataset',
        data_root=data_root,
        split='val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='fpn_neck.OccurringIoUMetric', iou_metrics=['mIoU']),
    dict(type='fpn_neck.SuperClassIoUMetric', iou_metrics=['mIoU']),  # nine kinds: super/...
]
test_evaluator = val_evaluator
