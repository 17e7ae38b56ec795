# ConvNeXt-XXL: 13.5 GB of weights, gradients and AdamW's state, shared out over eight GPUs.
# tools/dist_train.sh configs/segmentation/fpn_convnext-xxlarge_fsdp_8xb2-20k_clothing-512x352.py 8
_base_ = ['fpn_r50_1xb16-20k_clothing-512x352.py', '../_base_/fsdp.py']
model = dict(
    data_preprocessor=dict(  # timm's mean and std for this model
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305]),
    backbone=dict(_delete_=True, type='fpn_neck.TimmBackbone', model_name='convnext_xxlarge', pretrained=True),
    neck=dict(in_channels=[384, 768, 1536, 3072]),
    decode_head=dict(norm_cfg=dict(type='GN', num_groups=32)))  # two photos are few for BN
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
