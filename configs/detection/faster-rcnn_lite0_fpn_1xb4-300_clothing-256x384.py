_base_ = [
    '../_base_/detectors/faster-rcnn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=58)))
