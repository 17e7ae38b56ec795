# Table 2 row (b): Fast R-CNN on C5 alone; proposals of row (c).
_base_ = 'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    backbone=dict(out_indices=(3, )),
    neck=None,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=2048, featmap_strides=[32]),
        bbox_head=dict(in_channels=2048)))
