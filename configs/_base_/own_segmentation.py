# A segmenter of your own photos; `fpn-neck new segmentation` writes a config that inherits from it.
_base_ = ['fpn_lite0.py', 'runtime.py', 'own_schedule.py']
# What does not depend on the sizes.
load = dict(type='LoadImageFromFile')
labels = dict(type='LoadAnnotations')
pack = dict(type='PackSegInputs')
mirrored = [[dict(type='RandomFlip', prob=p) for p in (0., 1.)], [labels], [pack]]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='fpn_neck.FoldersDataset', split='train'))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='fpn_neck.FoldersDataset', split='val'))
test_dataloader = val_dataloader
val_evaluator = dict(type='fpn_neck.OccurringIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
