# make demo-detection: Faster R-CNN on the generated scenes.
_base_ = [
    '../_base_/detectors/faster-rcnn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
train_cfg = dict(val_interval=200)
