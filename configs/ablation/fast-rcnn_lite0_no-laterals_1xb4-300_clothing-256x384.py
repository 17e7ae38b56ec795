# Table 2 row (e): Fast R-CNN top-down path from C5, no laterals beside it. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    neck=dict(laterals=False), roi_head=dict(bbox_head=dict(num_classes=58)))
