_base_ = [
    '../_base_/detectors/mask-rcnn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_600.py',
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=6), mask_head=dict(num_classes=6)))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
train_cfg = dict(val_interval=300)
