# Table 1 row (d): no top-down path; every level is its lateral, smoothed.
_base_ = [
    '../_base_/detectors/rpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(neck=dict(top_down=False))
val_evaluator = dict(metric='proposal')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))
