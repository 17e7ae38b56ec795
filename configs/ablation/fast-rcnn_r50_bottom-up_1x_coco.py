# Table 2 row (d): Fast R-CNN, no top-down path; proposals of row (c).
_base_ = 'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN', top_down=False))
