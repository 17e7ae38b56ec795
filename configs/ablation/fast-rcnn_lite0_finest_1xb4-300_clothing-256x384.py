# Table 2 row (f): Fast R-CNN every RoI pooled from P2. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4]), bbox_head=dict(num_classes=58)))
