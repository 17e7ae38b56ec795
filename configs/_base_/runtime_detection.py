# As runtime.py, for mmdet.
_base_ = 'runtime.py'
default_scope = 'mmdet'
visualizer = dict(type='DetLocalVisualizer')
default_hooks = dict(
    checkpoint=dict(save_best='coco/bbox_mAP'),
    visualization=dict(type='DetVisualizationHook'))
custom_hooks = [dict(type='fpn_neck.DetectionPicturesHook'), dict(type='fpn_neck.SummaryHook')]
