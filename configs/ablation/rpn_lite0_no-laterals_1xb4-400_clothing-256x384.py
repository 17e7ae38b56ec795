# Table 1 row (e): top-down path from C5, no laterals beside it.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(neck=dict(laterals=False))
val_evaluator = dict(metric='proposal')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
