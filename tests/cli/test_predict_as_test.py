"""tools/predict.py gives what tools/test.py gives, however the config loads its photos."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")
pytest.importorskip("mmseg.models")

from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402

CONFIG = """
{imports}
default_scope = {scope!r}
norm = dict(type='BN')
model = dict(
    type={model},
    test_cfg=dict(mode='whole'),
    data_preprocessor=dict(
        type={preprocessor}, mean={mean}, std={std}, bgr_to_rgb={in_channels} == 3),
    backbone=dict(
        type={backbone}, depth=18, in_channels={in_channels}, base_channels=8,
        stem_channels=8, norm_cfg=norm),
    neck=dict(type='fpn_neck.FPN', in_channels=[8, 16, 32, 64], out_channels=8),
    decode_head=dict(
        type='fpn_neck.FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32], channels=8, norm_cfg=norm, {head}))
pipeline = [
    dict(type={load}, {options}),
    dict(type={resize}, scale=(64, 48), keep_ratio=True),
    dict(type={annotations}),
    dict(type={pack}),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type={sampler}, shuffle=False),
    dataset=dict(
        type={dataset}, data_root={root!r}, img_suffix={suffix!r}, seg_map_suffix='.png',
        data_prefix=dict(img_path='photos', seg_map_path='masks'),
        metainfo=dict(
            classes={classes},
            palette=([[0, 0, 0], [255, 0, 0], [0, 0, 255]] * 100)[:len({classes})]),
        pipeline=pipeline, {more}))
test_cfg = dict(type={loop})
test_evaluator = dict(type={metric}, iou_metrics=['mIoU'])
work_dir = {root!r} + '/work'
custom_hooks = [dict(type='fpn_neck.PicturesHook')]
"""
NAMES = {
    "scope": "mmseg",
    "imports": "",
    "model": "'EncoderDecoder'",
    "preprocessor": "'SegDataPreProcessor'",
    "backbone": "'ResNetV1c'",
    "load": "'LoadImageFromFile'",
    "resize": "'Resize'",
    "annotations": "'LoadAnnotations'",
    "pack": "'PackSegInputs'",
    "dataset": "'BaseSegDataset'",
    "sampler": "'DefaultSampler'",
    "loop": "'TestLoop'",
    "metric": "'IoUMetric'",
}
SCOPED = {
    **NAMES,
    "model": "'mmseg.EncoderDecoder'",
    "load": "'mmcv.LoadImageFromFile'",
    "resize": "'mmcv.Resize'",
    "annotations": "'mmseg.LoadAnnotations'",
    "pack": "'mmseg.PackSegInputs'",
}
IMPORTS = """
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, ResNetV1c, SegDataPreProcessor
"""
CLASSES = {
    **{key: value.strip("'") for key, value in NAMES.items()},
    "scope": None,
    "imports": IMPORTS,
}
SETTINGS = {
    "in_channels": 3,
    "mean": [123.0, 116.0, 103.0],
    "std": [58.0, 57.0, 57.0],
    "classes": ("a", "b", "c"),
    "head": "num_classes=3",
    "options": "",
    "suffix": ".png",
    "more": "",
}
SIXTEEN_BITS = {
    "options": "color_type='unchanged', to_float32=True",
    "mean": [2040.0] * 3,
    "std": [2040.0] * 3,
}
GREY = {"options": "color_type='grayscale'", "in_channels": 1, "mean": [110.0], "std": [50.0]}
BINARY = {
    "classes": ("background", "object"),
    "head": "num_classes=2, out_channels=1, threshold=0.5, "
    "loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)",
}
CASES = {
    "defaults": (NAMES, {}, "8 bits"),
    "16 bits": (NAMES, SIXTEEN_BITS, "16 bits"),
    "16 bits of grey": (
        NAMES,
        {**SIXTEEN_BITS, "in_channels": 1, "mean": [20000.0], "std": [9000.0]},
        "16 bits of grey",
    ),
    "grey": (NAMES, GREY, "8 bits"),
    "pillow": (NAMES, {"options": "imdecode_backend='pillow'", "suffix": ".jpg"}, "8 bits"),
    "turned by EXIF": (NAMES, {"suffix": ".jpg"}, "turned"),
    "EXIF ignored": (
        NAMES,
        {"options": "color_type='color_ignore_orientation'", "suffix": ".jpg"},
        "turned",
    ),
    "scoped names": (SCOPED, {}, "8 bits"),
    "classes": (CLASSES, {}, "8 bits"),
    "classes, 16 bits": (CLASSES, SIXTEEN_BITS, "16 bits"),
    "with alpha": (NAMES, {}, "RGBA"),
    "four channels": (
        NAMES,
        {
            "options": "color_type='unchanged'",
            "in_channels": 4,
            "mean": [110.0] * 4,
            "std": [50.0] * 4,
        },
        "RGBA",
    ),
    "a palette": (NAMES, {}, "P"),
    "a palette by pillow": (NAMES, {"options": "imdecode_backend='pillow'"}, "P"),
    "grey photos in colour": (NAMES, {}, "L"),
    "four colours": (NAMES, {"suffix": ".jpg"}, "CMYK"),
    "numbers of 32 bits": (
        NAMES,
        {
            "options": "color_type='unchanged', to_float32=True",
            "suffix": ".tif",
            "in_channels": 1,
            "mean": [110.0],
            "std": [50.0],
        },
        "F",
    ),
    "one logit": (NAMES, BINARY, "8 bits"),
    "reduce_zero_label": (NAMES, {"more": "reduce_zero_label=True"}, "8 bits"),
}


def save_photo(path, content, seed):
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC)
    if content == "16 bits":
        photo = photo.astype(np.uint16) * 16  # 12 bits of 16, as cameras have them
    if content == "16 bits of grey":
        photo = photo[..., 0].astype(np.uint16) * 257
    if content in ("RGBA", "P", "L", "CMYK", "F"):
        picture = Image.fromarray(photo).convert(content)
        if content == "RGBA":
            picture.putalpha(Image.fromarray(photo[..., 1]))
        picture.save(path)
    elif content == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo).save(path, exif=exif)
    else:
        cv2.imwrite(str(path), photo)


@pytest.fixture
def segmenter(tmp_path, write_config):
    """A config on two photos, and random weights that give every label; without any names."""

    def make(names, settings, content):
        settings = {**SETTINGS, **settings}
        for folder in ("photos", "masks"):
            (tmp_path / folder).mkdir()
        ignored = "ignore_orientation" in settings["options"]
        size = (96, 64) if content == "turned" and not ignored else (64, 96)
        for i, name in enumerate("xy"):
            save_photo(tmp_path / "photos" / f"{name}{settings['suffix']}", content, i)
            Image.fromarray(np.full(size, i, np.uint8)).save(tmp_path / f"masks/{name}.png")
        text = CONFIG.format(**{**names, **settings}, root=str(tmp_path))
        config = write_config("segmenter", text)
        cfg = load_config(str(config))
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmseg"):
            try:
                model = MODELS.build(cfg.model)
            except AssertionError as e:
                if "should have 1 or 3 values" not in str(e):
                    raise
                pytest.skip("this mmseg takes photos of one or three channels only")
        classifier = model.decode_head.conv_seg
        torch.nn.init.normal_(classifier.weight, std=3.0)
        torch.save(model.state_dict(), tmp_path / "plain.pth")
        photos, checkpoint = tmp_path / "photos", tmp_path / "plain.pth"
        return SimpleNamespace(config=config, checkpoint=checkpoint, photos=photos)

    return make


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_the_test(call_tool, segmenter, tmp_path, case):
    made = segmenter(*CASES[case])
    model = made.config, made.checkpoint
    tested = call_tool("test", *model, "--out", tmp_path / "tested")
    assert tested.returncode == 0, tested.stderr
    done = call_tool("predict", *model, made.photos, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    values = set()
    for name in "xy":
        expected = np.asarray(Image.open(tmp_path / f"tested/{name}.png"))
        labels = Image.open(tmp_path / f"out/labels/{name}.png")
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), expected)
        values |= set(np.unique(expected))
        (picture,) = (tmp_path / "work/test/pictures").glob(f"{name}.png")
        overlay = Image.open(tmp_path / f"out/overlays/{name}.png")
        panel = (0, 16, expected.shape[1], 16 + expected.shape[0])
        shown = np.asarray(overlay.crop(panel))
        np.testing.assert_array_equal(np.asarray(Image.open(picture).crop(panel)), shown)
        assert shown.std() > 20  # a photo, not black or white
    assert len(values) > 1
    first = int(case == "reduce_zero_label")  # 0 is 'no class' in such masks
    assert first <= min(values) and max(values) < first + len(SETTINGS["classes"])


JOINED = """
part = test_dataloader.pop('dataset')
loader = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
other = dict(
    part, data_prefix=dict(img_path='other', seg_map_path='other'),
    pipeline=[loader, *part['pipeline'][1:]])
test_dataloader['dataset'] = dict(type='ConcatDataset', datasets=[part, other])
"""


@pytest.fixture
def joined(segmenter, tmp_path):
    """Two data sets with photos of the same names; only the first one turns them."""
    made = segmenter(*CASES["turned by EXIF"])
    shutil.copytree(tmp_path / "photos", tmp_path / "other")
    for name in "xy":
        Image.fromarray(np.zeros((64, 96), np.uint8)).save(tmp_path / f"other/{name}.png")
    made.config.write_text(made.config.read_text() + JOINED)
    return made.config, made.checkpoint


def test_pictures_of_joined_data_sets_are_all_there_as_their_own_loaders_read(
    call_tool, joined, tmp_path
):
    done = call_tool("test", *joined)
    assert done.returncode == 0, done.stderr
    pictures = {p.stem: Image.open(p) for p in (tmp_path / "work/test/pictures").iterdir()}
    assert set(pictures) == {"x", "y", "other_x", "other_y"}
    for name in "xy":
        turned = Image.open(tmp_path / f"photos/{name}.jpg").getexif()[0x0112]
        assert turned == 6 and pictures[name].height > pictures[f"other_{name}"].height


def test_labels_of_photos_of_one_name_are_not_written_over_each_other(call_tool, joined, tmp_path):
    done = call_tool("test", *joined, "--out", tmp_path / "tested")
    assert done.returncode == 2 and "photos/x.jpg and" in done.stderr
    assert "other/x.jpg would both be written to x.png" in done.stderr


MANY = {
    "classes": tuple(f"c{i}" for i in range(300)),
    "head": "num_classes=300",
}


def test_more_labels_than_8_bits_hold_are_not_written_modulo_256(call_tool, segmenter, tmp_path):
    made = segmenter(NAMES, MANY, "8 bits")
    model = made.config, made.checkpoint
    done = call_tool("test", *model, "--out", tmp_path / "tested")
    assert done.returncode == 2 and "300 labels do not fit into the 8 bits" in done.stderr
    done = call_tool("predict", *model, made.photos, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    labels = Image.open(tmp_path / "out/labels/x.png")
    assert labels.mode == "I;16" and 255 < np.asarray(labels).max() < 300


@pytest.mark.parametrize("padded", [True, False])
def test_photos_whose_labels_a_padding_would_stretch_are_refused(
    call_tool, segmenter, tmp_path, padded
):
    made = segmenter(NAMES, {}, "8 bits")  # 96 x 64 px, 64 x 43 after the resize
    multiple = 32 if padded else 1
    pad = f"pipeline.insert(2, dict(type='Pad', size_divisor={multiple}))\n"
    made.config.write_text(made.config.read_text() + pad)
    tested = call_tool("test", made.config, made.checkpoint, "--out", tmp_path / "tested")
    out = tmp_path / "out"
    done = call_tool("predict", made.config, made.checkpoint, made.photos, "--out", out)
    assert (tested.returncode, done.returncode) == ((2, 1) if padded else (0, 0))
    if padded:
        words = "Pad of the pipeline makes 64x43 px 64x64, and mmseg stretches the labels back"
        assert words in tested.stderr and f"x.png: {words}" in done.stderr


def test_an_error_without_a_message_shows_the_line_of_code(call_tool, segmenter, tmp_path):
    """mmseg mirrors logits back in two directions, and only asserts that there is no third."""
    made = segmenter(NAMES, {}, "8 bits")
    flip = "pipeline.insert(2, dict(type='RandomFlip', prob=1.0, direction='diagonal'))\n"
    made.config.write_text(made.config.read_text() + flip)
    out = tmp_path / "out"
    done = call_tool("predict", made.config, made.checkpoint, made.photos, "--out", out)
    assert done.returncode == 1
    assert "x.png: AssertionError in " in done.stderr and "assert flip_direction in" in done.stderr
