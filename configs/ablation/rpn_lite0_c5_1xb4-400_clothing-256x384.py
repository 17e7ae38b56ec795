# Table 1 row (b): RPN only on C5, all five scales of anchors on it.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(
    backbone=dict(out_indices=[4]),
    neck=None,
    rpn_head=dict(in_channels=320, anchor_generator=dict(scales=[0.5, 1, 2, 4, 8], strides=[32])),
    test_cfg=dict(rpn=dict(nms_pre=10000)))  # all candidates come from one map, not from five
val_evaluator = dict(metric='proposal')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
