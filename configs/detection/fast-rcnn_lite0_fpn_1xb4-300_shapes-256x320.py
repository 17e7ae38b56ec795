# make two-step: Fast R-CNN on the generated scenes, with the proposals that tools/make_proposals.py
# wrote to PROPOSALS_ROOT/train.pkl and PROPOSALS_ROOT/val.pkl.
_base_ = [
    '../_base_/detectors/fast-rcnn_lite0.py',
    '../_base_/shapes_detection.py',
    '../_base_/runtime_detection.py',
    '../_base_/schedules/schedule_300.py',
]
import os  # noqa: E402 (mmengine takes an import before _base_ for another kind of config)

# Made absolute: mmdet takes a relative path from the data set's root.
proposals = os.path.abspath('{{$PROPOSALS_ROOT:data/proposals/shapes}}')
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadProposals'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='ProposalBroadcaster', transforms=[dict(type='RandomFlip', prob=0.5)]),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadProposals', num_max_proposals=300),
    dict(
        type='ProposalBroadcaster',
        transforms=[dict(type='Resize', scale=(320, 256), keep_ratio=True)]),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(proposal_file=proposals + '/train.pkl', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(proposal_file=proposals + '/val.pkl', pipeline=test_pipeline))
test_dataloader = val_dataloader
