# Panoptic FPN: Mask R-CNN and a segmentation head on the same pyramid; one label of stuff.
_base_ = 'mask-rcnn_lite0.py'
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(pad_mask=True, mask_pad_value=0, pad_seg=True, seg_pad_value=255),
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
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=256)))
