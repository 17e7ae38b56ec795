"""A detector whose heads declare strides of other maps than theirs is refused before training."""

import copy

import pytest
import torch

pytest.importorskip("mmdet")

import fpn_neck.registry  # noqa: E402, F401

pytest.importorskip("mmdet.models")

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.det.strides import check_prior_strides  # noqa: E402

BACKBONE = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8)
NECK = dict(type="fpn_neck.FPN", in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5)
ANCHORS = dict(type="AnchorGenerator", scales=[8], ratios=[1.0])
RPN_STRIDES, ROI_STRIDES = [4, 8, 16, 32, 64], [4, 8, 16, 32]


def faster_rcnn(rpn=RPN_STRIDES, roi=ROI_STRIDES, **neck):
    extractor = dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=7),
        out_channels=8,
        featmap_strides=roi,
    )
    return dict(
        type="FasterRCNN",
        train_cfg=None,
        test_cfg=dict(rpn={}, rcnn={}),
        backbone=BACKBONE,
        neck=NECK | neck,
        rpn_head=dict(
            type="RPNHead",
            in_channels=8,
            feat_channels=8,
            anchor_generator=ANCHORS | dict(strides=rpn),
        ),
        roi_head=dict(
            type="StandardRoIHead",
            bbox_roi_extractor=extractor,
            bbox_head=dict(type="Shared2FCBBoxHead", in_channels=8, num_classes=2),
        ),
    )


def fcos(strides):
    neck = NECK | dict(start_level=1, add_extra_convs="on_output")
    head = dict(
        type="FCOSHead",
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        strides=strides,
        norm_cfg=None,
    )
    return dict(type="FCOS", backbone=BACKBONE, neck=neck, bbox_head=head)


def build(cfg):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict(copy.deepcopy(cfg)))


@pytest.mark.parametrize(
    "cfg",
    [
        faster_rcnn(),
        faster_rcnn(roi=[4]),
        fcos([8, 16, 32, 64, 128]),
        fcos([7.97, 15.7, 30.5, 61.1, 110]),  # YOLACT's
    ],
)
def test_strides_of_the_maps_pass(cfg):
    model = build(cfg).train()
    model.backbone.bn1.eval()
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_prior_strides(model)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert not model.backbone.bn1.training and model.neck.training
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_strides_of_maps_of_one_cell_pass():
    """Of SSDLite: 160 and 320 px, where a square of 256 px has two cells and one."""
    cfg = load_config("mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py").model
    check_prior_strides(build(cfg))
    cfg.bbox_head.anchor_generator.strides = [16, 32, 64, 107, 80, 320]
    with pytest.raises(ValueError, match=r"107, 80, 320\], but"):
        check_prior_strides(build(cfg))


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (
            faster_rcnn(start_level=1, add_extra_convs=True),
            r"rpn_head: strides of anchors or points=\[4, 8, 16, 32, 64\], but .* "
            r"strides \[8, 16, 32, 64, 128\]: set them to \[8, 16, 32, 64, 128\]",
        ),
        (
            faster_rcnn(roi=[8, 16, 32, 64]),
            r"roi_head.bbox_roi_extractor.featmap_strides=\[8, 16, 32, 64\], but .* "
            r"strides \[4, 8, 16, 32\]",
        ),
        (fcos(RPN_STRIDES), r"bbox_head: strides .*=\[4, 8, 16, 32, 64\], but"),
    ],
)
def test_strides_of_other_maps_are_refused(cfg, words):
    with pytest.raises(ValueError, match=rf"^config: model\.{words}"):
        check_prior_strides(build(cfg))


def test_what_is_no_detector_passes():
    check_prior_strides(torch.nn.Conv2d(3, 8, 1))
