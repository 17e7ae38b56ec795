# make demo-detection: Faster R-CNN on the generated scenes.
_base_ = [
    '../_base_/detectors/faster-rcnn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))

max_iters = 400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0),
]
