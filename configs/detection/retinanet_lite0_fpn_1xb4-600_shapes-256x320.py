_base_ = [
    '../_base_/detectors/retinanet_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_600.py',
]
model = dict(bbox_head=dict(num_classes=6))
train_cfg = dict(val_interval=300)
