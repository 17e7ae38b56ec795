# Table 2 row (d): Fast R-CNN no top-down path. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
]
model = dict(
    neck=dict(top_down=False), roi_head=dict(bbox_head=dict(num_classes=58)))

max_iters = 300
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0),
]
