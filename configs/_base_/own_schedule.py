# The schedule of your own photos; `fpn-neck new` writes a config that sets its lengths.
train_cfg = dict(type='IterBasedTrainLoop')
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0)
cosine = dict(type='CosineAnnealingLR', by_epoch=False, eta_min=0)
