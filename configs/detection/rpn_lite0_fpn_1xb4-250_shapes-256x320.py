# make two-step: RPN on the generated scenes, whatever the shape.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
]
val_evaluator = dict(metric='proposal')  # proposal_fast fails with numpy 1.24 and later
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
custom_hooks = [
    dict(type='fpn_neck.DetectionPicturesHook', score_thr=0.9),
    dict(type='fpn_neck.SummaryHook'),
]

max_iters = 250
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0),
]
