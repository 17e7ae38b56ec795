# Table 2 row (d): Fast R-CNN no top-down path. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    neck=dict(top_down=False), roi_head=dict(bbox_head=dict(num_classes=58)))
