# Table 1 row (f): only P2, all five scales of anchors on it.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(
    neck=[
        dict(type='fpn_neck.FPN', in_channels=[24, 40, 112, 320], out_channels=128),
        dict(type='fpn_neck.SelectLevels', indices=[0]),
    ],
    rpn_head=dict(anchor_generator=dict(scales=[4, 8, 16, 32, 64], strides=[4])),
    test_cfg=dict(rpn=dict(nms_pre=10000)))  # all candidates come from one map, not from five
val_evaluator = dict(metric='proposal')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
