# mmdet's RPN with this package's neck; its weights load as they are.
_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
model = dict(neck=dict(type='fpn_neck.FPN'))
