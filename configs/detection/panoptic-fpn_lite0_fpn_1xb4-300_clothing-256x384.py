_base_ = [
    '../_base_/detectors/panoptic-fpn_lite0.py',
    '../_base_/clothing_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=58), mask_head=dict(num_classes=58)),
    semantic_head=dict(num_things_classes=58),
    panoptic_fusion_head=dict(num_things_classes=58))
val_evaluator = dict(
    _delete_=True,  # mmdet's panoptic detectors keep no boxes, so that there is no mAP
    type='fpn_neck.PanopticQualityMetric',
    ann_file={{_base_.val_evaluator.ann_file}})
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ', rule='greater'))
