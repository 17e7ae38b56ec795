# mmdet's Panoptic FPN with this package's neck and semantic head: one pyramid for boxes, masks and
# segments. Its weights load as they are.
_base_ = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN'), semantic_head=dict(type='fpn_neck.PanopticFPNHead'))
