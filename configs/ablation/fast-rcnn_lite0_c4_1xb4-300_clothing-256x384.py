# Table 2 row (a): Fast R-CNN on C4 alone. The paper's head there is conv5; here it is the two
# layers of the other rows. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
]
model = dict(
    backbone=dict(out_indices=[3]),
    neck=None,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=112, featmap_strides=[16]),
        bbox_head=dict(in_channels=112, num_classes=58)))

max_iters = 300
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0),
]
