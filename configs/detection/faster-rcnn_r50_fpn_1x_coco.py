# mmdet's Faster R-CNN with this package's neck; its weights load as they are.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN'))
