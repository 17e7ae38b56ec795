# make demo: whole scenes, small batches, a high learning rate: most steps in few minutes.
_base_ = ['../_base_/fpn_lite0.py', '../_base_/shapes.py', '../_base_/runtime.py']
model = dict(
    data_preprocessor=dict(size=(256, 320)),
    decode_head=dict(num_classes=7, dropout_ratio=0.0, loss_stride=2))

max_iters = 480
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=240)
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=max_iters, eta_min=0),
]
