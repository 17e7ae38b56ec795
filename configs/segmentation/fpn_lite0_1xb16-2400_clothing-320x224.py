_base_ = ['../_base_/fpn_lite0.py', '../_base_/clothing.py', '../_base_/runtime.py']
model = dict(
    data_preprocessor=dict(size=(320, 224)),
    decode_head=dict(num_classes=59, loss_stride=2))

max_iters = 2400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=0),
]
