# Table 2 row (a): Fast R-CNN on C4 alone. The paper's head there is conv5; here it is the two
# layers of the other rows. Proposals of row (c).
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    backbone=dict(out_indices=[3]),
    neck=None,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=112, featmap_strides=[16]),
        bbox_head=dict(in_channels=112, num_classes=58)))
