# make two-step: RPN on the generated scenes, whatever the shape.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_250.py',
]
val_evaluator = dict(metric='proposal')  # proposal_fast fails with numpy 1.24 and later
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
custom_hooks = [
    dict(type='fpn_neck.DetectionPicturesHook', score_thr=0.9),
    dict(type='fpn_neck.SummaryHook'),
]
