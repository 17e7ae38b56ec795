# Table 1 row (f): only P2, all five scales of anchors on it.
_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    neck=[
        dict(type='fpn_neck.FPN', in_channels=[256, 512, 1024, 2048], out_channels=256),
        dict(type='fpn_neck.SelectLevels', indices=[0]),
    ],
    rpn_head=dict(anchor_generator=dict(scales=[8, 16, 32, 64, 128], strides=[4])),
    test_cfg=dict(rpn=dict(nms_pre=10000)))  # all candidates come from one map, not from five
val_evaluator = dict(metric='proposal')  # proposal_fast fails with numpy 1.24 and later
test_evaluator = val_evaluator
