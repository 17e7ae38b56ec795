# mmseg's Semantic FPN recipe with this package's segmentor, neck and head; its weights load as they are.
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    type='fpn_neck.EncoderDecoder',
    neck=dict(type='fpn_neck.FPN'),
    decode_head=dict(type='fpn_neck.FPNHead'))
