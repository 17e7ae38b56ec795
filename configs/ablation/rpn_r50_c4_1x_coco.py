# Table 1 row (a): RPN only on C4, all five scales of anchors on it.
_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, )),
    neck=None,
    rpn_head=dict(in_channels=1024, anchor_generator=dict(scales=[2, 4, 8, 16, 32], strides=[16])),
    test_cfg=dict(rpn=dict(nms_pre=10000)))  # all candidates come from one map, not from five
val_evaluator = dict(metric='proposal')  # proposal_fast fails with numpy 1.24 and later
test_evaluator = val_evaluator
