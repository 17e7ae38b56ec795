# The clothing photos with the proposals that tools/make_proposals.py wrote to
# PROPOSALS_ROOT/train.pkl and PROPOSALS_ROOT/val.pkl.
_base_ = 'clothing_detection.py'
import os  # noqa: E402 (mmengine takes an import before _base_ for another kind of config)

# Made absolute: mmdet takes a relative path from the data set's root.
proposals = os.path.abspath('{{$PROPOSALS_ROOT:data/proposals/clothing}}')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadProposals'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='ProposalBroadcaster',
        transforms=[
            dict(
                type='RandomResize',
                scale={{_base_.scale}},
                ratio_range=(0.75, 1.25),
                keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
        ]),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadProposals', num_max_proposals=300),
    dict(
        type='ProposalBroadcaster',
        transforms=[dict(type='Resize', scale={{_base_.scale}}, keep_ratio=True)]),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(proposal_file=proposals + '/train.pkl', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(proposal_file=proposals + '/val.pkl', pipeline=test_pipeline))
test_dataloader = val_dataloader
