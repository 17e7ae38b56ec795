# make demo
_base_ = ['../_base_/fpn_lite0.py', '../_base_/shapes.py', '../_base_/runtime.py']
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    decode_head=dict(num_classes=7, loss_stride=2))

max_iters = 300
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=150)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=max_iters, eta_min=0),
]
