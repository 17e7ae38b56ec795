# mmseg's Semantic FPN recipe with this package's segmentor, neck and head; its weights load as they are.
_base_ = 'mmseg::sem_fpn/fpn_r101_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['fpn_neck'])
model = dict(
    type='fpn_neck.EncoderDecoder',
    neck=dict(type='fpn_neck.FPN'),
    decode_head=dict(type='fpn_neck.FPNHead'))
