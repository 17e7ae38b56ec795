# Table 2 row (e): Fast R-CNN, top-down path from C5, no laterals beside it; proposals of row (c).
_base_ = 'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN', laterals=False))
