"""Transforms of an evaluated pipeline that move boxes or labels which nobody moves back."""

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import fpn_neck.registry  # noqa: E402, F401

pytest.importorskip("mmdet.datasets")
pytest.importorskip("mmseg.datasets")

from mmengine.config import Config, ConfigDict  # noqa: E402

from fpn_neck.mm.config.pipelines import check_evaluated, check_moving  # noqa: E402

LOAD, RESIZE = dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 48))
TRUTH = dict(type="LoadAnnotations", with_bbox=True)
FLIP = dict(type="RandomFlip", prob=0.5)
VOC, COCO = dict(type="VOCMetric"), [dict(type="CocoMetric")]


def config(scope, pipeline, evaluator):
    part = dict(type="AnyDataset", pipeline=pipeline)
    loader = dict(dataset=dict(type="RepeatDataset", times=1, dataset=part))
    return Config(dict(default_scope=scope, val_dataloader=loader, val_evaluator=evaluator))


@pytest.mark.parametrize(
    ("scope", "transform"),
    [
        ("mmdet", FLIP),
        ("mmdet", dict(type="mmdet.RandomCrop", crop_size=(9, 9))),
        ("mmdet", dict(type="ShearX")),
        ("mmdet", dict(type="CachedMosaic")),
        ("mmdet", dict(type="RandomCenterCropPad", test_mode=False)),
        ("mmseg", dict(type="RandomRotate", prob=0.5, degree=9)),
    ],
)
def test_what_moves_boxes_or_labels_is_refused(scope, transform):
    cfg = config(scope, [LOAD, transform, RESIZE], COCO)
    name = transform["type"].rpartition(".")[2]
    with pytest.raises(ValueError) as caught:
        check_evaluated(cfg, "val")
    words = f"config: val_dataloader.dataset.pipeline[1] ({name}) moves what a photo shows, and "
    assert str(caught.value).startswith(f"{words}{scope} does not move ")
    assert "leave it out" in str(caught.value)


def test_a_class_derived_from_one_of_them_is_known():
    from mmdet.datasets.transforms import RandomFlip

    kind = type("OwnFlip", (RandomFlip,), {})
    with pytest.raises(ValueError, match=r"pipeline\[0\] \(OwnFlip\)"):
        check_moving([ConfigDict(type=kind, prob=1.0)], "pipeline", "mmdet")


@pytest.mark.parametrize(
    ("scope", "transform"),
    [
        ("mmdet", FLIP | dict(prob=0.0)),
        ("mmdet", dict(type="Pad", size_divisor=32)),  # to the right and below
        ("mmdet", dict(type="RandomCenterCropPad", test_mode=True)),
        ("mmdet", dict(type="TestTimeAug", transforms=[[RESIZE], [FLIP]])),  # is merged
        ("mmseg", FLIP),  # EncoderDecoder mirrors its logits back
        ("mmseg", dict(type="PhotoMetricDistortion")),
        ("mmseg", dict(type="NoSuchTransform")),  # is told where it is built
        ("other", FLIP),
    ],
)
def test_what_moves_nothing_passes(scope, transform):
    check_evaluated(config(scope, [LOAD, transform, RESIZE], COCO), "val")


def test_boxes_are_loaded_after_the_resize_if_they_judge():
    for evaluator in (VOC, [dict(type="mmdet.VOCMetric")]):
        with pytest.raises(ValueError, match="put LoadAnnotations after Resize"):
            check_evaluated(config("mmdet", [LOAD, TRUTH, RESIZE], evaluator), "val")
        check_evaluated(config("mmdet", [LOAD, RESIZE, TRUTH], evaluator), "val")
    check_evaluated(config("mmdet", [LOAD, TRUTH, RESIZE], COCO), "val")
