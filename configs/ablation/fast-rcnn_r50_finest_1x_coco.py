# Table 2 row (f): Fast R-CNN with every RoI pooled from P2; proposals of row (c).
_base_ = 'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    neck=dict(type='fpn_neck.FPN'),
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[4])))
