# Table 1 row (a): RPN only on C4, all five scales of anchors on it.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(
    backbone=dict(out_indices=[3]),
    neck=None,
    rpn_head=dict(in_channels=112, anchor_generator=dict(scales=[1, 2, 4, 8, 16], strides=[16])),
    test_cfg=dict(rpn=dict(nms_pre=10000)))  # all candidates come from one map, not from five
val_evaluator = dict(metric='proposal')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
