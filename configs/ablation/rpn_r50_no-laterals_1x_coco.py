# Table 1 row (e): top-down path from C5, no laterals beside it.
_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(neck=dict(type='fpn_neck.FPN', laterals=False))
val_evaluator = dict(metric='proposal')  # proposal_fast fails with numpy 1.24 and later
test_evaluator = val_evaluator
