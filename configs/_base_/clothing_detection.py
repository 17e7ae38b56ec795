# Boxes and masks of the clothing photos (tools/prepare_clothing.py writes annotations/), seen at
# about 256 x 384 px.
data_root = '{{$CLOTHING_ROOT:data/clothing}}'
ann_root = '{{$CLOTHING_ANNOTATIONS:data/clothing/annotations}}'
scale = (256, 384)  # the size a photo is fitted into, width, height

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(  # every detector shares it; those for boxes do not load masks and label maps
        type='LoadAnnotations',
        with_bbox=True,
        with_mask=True,
        with_seg=True,
        reduce_zero_label=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='fpn_neck.ClothingDetectionDataset',
        data_root=data_root,
        ann_file=ann_root + '/instances_train.json',
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='fpn_neck.ClothingDetectionDataset',
        data_root=data_root,
        ann_file=ann_root + '/instances_val.json',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=ann_root + '/instances_val.json', metric='bbox')
test_evaluator = val_evaluator
