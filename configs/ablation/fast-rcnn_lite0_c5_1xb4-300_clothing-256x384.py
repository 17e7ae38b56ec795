# Table 2 row (b): Fast R-CNN on C5 alone. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    backbone=dict(out_indices=[4]),
    neck=None,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=320, featmap_strides=[32]),
        bbox_head=dict(in_channels=320, num_classes=58)))
