"""What loads a photo: a config's transforms without its annotations, and what is shown of it."""

import numpy as np
import pytest

for _package in ("mmdet", "mmseg"):
    pytest.importorskip(_package)
pytest.importorskip("mmdet.datasets")
pytest.importorskip("mmseg.datasets")

from mmcv.transforms import LoadAnnotations, LoadImageFromFile, Resize  # noqa: E402
from mmdet.datasets.transforms import LoadPanopticAnnotations, LoadTrackAnnotations  # noqa: E402
from PIL import Image  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.config.types import framework  # noqa: E402
from fpn_neck.mm.photos import (  # noqa: E402
    PhotoError,
    load_photo,
    picture_of,
    run_transform,
    without_annotations,
)
from fpn_neck.mm.predictor import photo_pipeline  # noqa: E402
from fpn_neck.utils.walk import type_name  # noqa: E402

LOADS = {"type": "LoadImageFromFile"}


class OwnAnnotations(LoadAnnotations):
    pass


@pytest.mark.parametrize(
    ("kind", "scope"),
    [
        ("LoadAnnotations", "mmseg"),
        ("LoadAnnotations", "mmdet"),
        ("mmseg.LoadAnnotations", "mmdet"),
        ("mmdet.LoadPanopticAnnotations", "mmseg"),
        ("LoadDepthAnnotation", "mmseg"),
        ("LoadBiomedicalAnnotation", "mmseg"),
        (LoadPanopticAnnotations, None),
        (LoadTrackAnnotations, None),
        (OwnAnnotations, "mmseg"),
    ],
)
def test_whatever_loads_annotations_is_left_out(kind, scope):
    loader = {"type": kind, "some": "settings"}
    assert without_annotations([LOADS, loader], scope) == [LOADS]
    inner = {"type": "RandomChoice", "transforms": [[LOADS, loader], [loader]]}
    (choice,) = without_annotations([inner], scope)
    assert choice["transforms"] == [[LOADS]]
    assert inner["transforms"] == [[LOADS, loader], [loader]]  # the caller's


@pytest.mark.parametrize("kind", ["LoadImageFromFile", "mmcv.LoadImageFromFile", LoadImageFromFile])
def test_what_loads_the_photo_stays(kind):
    assert without_annotations([{"type": kind}, {"type": "Resize"}], "mmseg") == [
        {"type": kind},
        {"type": "Resize"},
    ]


def test_the_panoptic_recipe_needs_no_panopticapi():
    cfg = load_config("mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py")
    names = list(map(type_name, photo_pipeline(cfg)))
    assert "LoadPanopticAnnotations" in names
    rest = without_annotations(photo_pipeline(cfg), "mmdet")
    assert list(map(type_name, rest)) == [n for n in names if n != "LoadPanopticAnnotations"]


def test_a_frame_work_is_known_by_the_models_class():
    from mmseg.models import EncoderDecoder

    for model, found in (
        (EncoderDecoder, "mmseg"),
        ("mmseg.EncoderDecoder", "mmseg"),
        ("mmdet.RPN", "mmdet"),
        ("nowhere", None),
    ):
        assert framework({"model": {"type": model}}) == found
    assert framework({"default_scope": "mmpretrain", "model": {"type": EncoderDecoder}}) == (
        "mmpretrain"
    )


def test_what_a_pipeline_needs_and_a_file_does_not_give_is_named(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")

    def load(results):
        return {**results, "img": np.zeros((3, 4, 3)), "other": results["img_path2"]}

    with pytest.raises(PhotoError, match="function of the pipeline needs 'img_path2'"):
        load_photo([load], tmp_path / "a.png")
    with pytest.raises(PhotoError, match="loads no photo"):
        load_photo([], tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no photo")
    for options in ({}, {"ignore_empty": True}, {"imdecode_backend": "pillow"}):
        with pytest.raises(PhotoError):
            load_photo([LoadImageFromFile(**options)], tmp_path / "b.png")


def test_any_image_can_be_shown():
    bgr = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    rgb = bgr[..., ::-1]
    for image in (bgr, bgr.astype(np.float32), np.dstack([bgr, bgr])):
        np.testing.assert_array_equal(picture_of(image), rgb)
    np.testing.assert_array_equal(picture_of(bgr[..., 0]), np.dstack([bgr[..., 0]] * 3))
    np.testing.assert_array_equal(picture_of(bgr[..., :2]), np.dstack([bgr[..., 0]] * 3))
    for wide in (bgr.astype(np.uint16) * 1000, bgr / 11.0, bgr * 1e30, bgr - 200.0):
        shown = picture_of(wide)
        assert shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)
        assert (np.argsort(shown, axis=None, kind="stable") == np.argsort(rgb, axis=None)).all()
    assert (picture_of(np.full((2, 2, 3), 300, np.uint16)) == 0).all()


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000)])
def test_a_photo_of_which_resizing_leaves_nothing_is_named(size):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    resize = Resize(scale=(64, 64), keep_ratio=True)
    with pytest.raises(PhotoError, match=f"Resize of the pipeline fails on {width}x{height} px: "):
        run_transform(resize, {"img": image})
    assert run_transform(resize, {"img": np.zeros((60, 90, 3))})["img"].shape == (43, 64, 3)
