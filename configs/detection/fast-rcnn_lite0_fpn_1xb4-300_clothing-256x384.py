# Fast R-CNN on the clothing photos, with the proposals of an RPN.
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/clothing_proposals.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=58)))
