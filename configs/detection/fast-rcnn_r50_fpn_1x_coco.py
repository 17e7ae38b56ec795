# mmdet's Fast R-CNN with this package's neck; its weights load as they are.
# The proposals come from a file: proposals/rpn_r50_fpn_1x_{train,val}2017.pkl under data/coco.
_base_ = 'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN'))
