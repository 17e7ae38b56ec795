# mmdet's RetinaNet (P3 to P7) with this package's neck; its weights load as they are.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN'))
