"""mmseg's checkpoints as segmenters' folders and back: equal logits, strict weights, refusals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fpn_neck

for _package in ("mmseg", "timm", "safetensors"):
    pytest.importorskip(_package)

from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from fpn_neck.export.graphs import segmenter  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.predict.segmenter import SCALES  # noqa: E402
from fpn_neck.mm.predictor import load_model  # noqa: E402
from fpn_neck.mm.seg.pretrained import to_mmseg, to_segmenter  # noqa: E402
from fpn_neck.models.pretrained import normalised  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

NAMES = {"classes": ("sky", "car", "dog"), "palette": [[0, 0, 255], [255, 0, 0], [0, 200, 0]]}
CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='fpn_neck.EncoderDecoder', test_cfg=dict(mode='whole'),
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116., 103.], std=[58., 57., 57.],
        bgr_to_rgb=True),
    backbone=dict(type='fpn_neck.TimmBackbone', model_name='resnet10t', frozen_levels=1),
    neck=dict(type='fpn_neck.FPN', in_channels=[64, 128, 256, 512], out_channels=8),
    decode_head=dict(
        type='fpn_neck.FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32], channels=8, norm_cfg=dict(type='BN'), num_classes=3))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=pipeline))
"""
HEAD, NECK = "model.decode_head", "model.neck"
BINARY = {
    f"{HEAD}.num_classes": 2,
    f"{HEAD}.out_channels": 1,
    f"{HEAD}.threshold": 0.5,
    f"{HEAD}.loss_decode": dict(type="CrossEntropyLoss", use_sigmoid=True),
}
KINDS = {
    "the recipes' model": {},
    "one logit": BINARY,
    "other options": {
        f"{HEAD}.merge": "cat",
        f"{HEAD}.align_corners": True,
        f"{HEAD}.norm_cfg": dict(type="GN", num_groups=4),
        f"{NECK}.smooth": "chained",
        f"{NECK}.init_cfg": None,
    },
    "SyncBN and an auxiliary head": {
        f"{NECK}.norm_cfg": dict(type="SyncBN", requires_grad=True),
        "model.auxiliary_head": dict(
            type="FCNHead", in_channels=8, in_index=2, channels=8, num_classes=3
        ),
    },
}


@pytest.fixture
def photo():
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((150, 110), Image.Resampling.BICUBIC))


@pytest.fixture
def checkpoint(write_config, tmp_path):
    """A checkpoint that holds its config, of a model whose labels differ from pixel to pixel."""

    def make(options, **more):
        cfg = load_config(str(write_config("model", CONFIG)), options)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = MODELS.build(cfg.model)
        torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=3.0)
        names = {k: v[: model.decode_head.num_classes] for k, v in NAMES.items()}
        meta = {"dataset_meta": names, "cfg": text_of(cfg)}
        torch.save({"meta": meta, "state_dict": model.state_dict(), **more}, tmp_path / "model.pth")
        return cfg, str(tmp_path / "model.pth")

    return make


def text_of(cfg):
    """As mmengine writes it, without its formatting, which takes seconds."""
    return "".join(f"{name} = {value!r}\n" for name, value in cfg.to_dict().items())


def logits_of_mmseg(cfg, path, images):
    model = load_model(cfg, path, "cpu", scope="mmseg")
    size = tuple(images.shape[-2:])
    metas = [{"img_shape": size, "ori_shape": size, "pad_shape": size}]
    with torch.no_grad():
        return model.encode_decode(images, metas)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_the_logits_are_equal(checkpoint, photo, tmp_path, kind):
    cfg, path = checkpoint(KINDS[kind])
    account = to_segmenter(path, tmp_path / "folder")
    assert all(name.startswith("auxiliary_head.") for name in account.ignored)
    assert bool(account.ignored) == ("auxiliary" in kind)
    model = fpn_neck.Segmenter.from_pretrained(tmp_path / "folder").eval()
    images = normalised(torch.from_numpy(photo), model.facts)
    expected = logits_of_mmseg(cfg, path, images)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert model.facts.mean == (123.675, 116, 103) and model.facts.fit == (96, 64)

    to_mmseg(tmp_path / "folder", tmp_path / "back.pth")
    back = load_checkpoint(tmp_path / "back.pth")["state_dict"]
    before = load_checkpoint(path)["state_dict"]
    assert set(before) == {*back, *account.ignored}
    assert all(torch.equal(back[name], before[name]) for name in back)
    found = logits_of_mmseg(cfg, str(tmp_path / "back.pth"), images) if not account.ignored else 0
    if not account.ignored:  # the config asks for the auxiliary head, too
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(kind, rule) for kind in [*KINDS][:2] for rule in ("fit", "exact", "none")][:4],
)
def test_photos_get_the_labels_of_the_checkpoint(checkpoint, photo, tmp_path, kind, rule):
    """A photo is resized as by the test pipeline; OpenCV rounds pixels in its own way."""
    options = {"fit": {}, "exact": {"pipeline.1.keep_ratio": False}, "none": {}}[rule]
    options = {f"test_dataloader.dataset.{k}": v for k, v in options.items()}
    cfg, path = checkpoint(KINDS[kind] | options)
    if rule == "none":
        content = load_checkpoint(path)
        del cfg.test_dataloader.dataset.pipeline[1]
        content["meta"]["cfg"] = text_of(cfg)
        torch.save(content, path)
    to_segmenter(path, tmp_path / "folder")
    to_mmseg(tmp_path / "folder", tmp_path / "back.pth")
    facts = json.loads((tmp_path / "folder/config.json").read_text())
    assert (facts["fit"], facts["exact"]) == {
        "fit": ([96, 64], None),
        "exact": (None, [96, 64]),
        "none": (None, None),
    }[rule]
    results = [
        fpn_neck.load(given, device="cpu")(photo)
        for given in (path, tmp_path / "folder", tmp_path / "back.pth")
    ]
    expected = results[0]
    assert expected.labels.shape == (110, 150) and len(np.unique(expected.labels)) > 1
    for found in results[1:]:
        assert found.classes == expected.classes
        assert found.palette == tuple(tuple(c) for c in expected.palette)
        assert (found.labels == expected.labels).mean() > (0.99 if rule != "none" else 0.9999)


@pytest.mark.parametrize("kind", [*KINDS][:2])
def test_test_time_augmentation_is_mmsegs(checkpoint, photo, tmp_path, kind):
    flips = [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)]
    scales = [(round(96 * f), round(64 * f)) for f in SCALES]
    views = [
        [dict(type="Resize", scale=scale, keep_ratio=True) for scale in scales],
        flips,
        [dict(type="PackSegInputs")],
    ]
    load = dict(type="LoadImageFromFile")
    pipeline = [load, dict(type="TestTimeAug", transforms=views)]
    cfg, path = checkpoint(
        KINDS[kind] | {"tta_model": dict(type="SegTTAModel"), "tta_pipeline": pipeline}
    )
    to_segmenter(path, tmp_path / "folder")
    expected = fpn_neck.load(path, cfg, "cpu", tta=True)(photo).labels
    found = fpn_neck.load(tmp_path / "folder", device="cpu", tta=True)(photo).labels
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.98  # OpenCV rounds pixels in its own way
    plain = fpn_neck.load(tmp_path / "folder", device="cpu")(photo).labels
    assert (found == expected).mean() > (plain == expected).mean()


def test_label_files_count_from_1_as_the_masks_do(checkpoint, photo, tmp_path):
    cfg, path = checkpoint({"test_dataloader.dataset.reduce_zero_label": True})
    to_segmenter(path, tmp_path / "folder")
    to_mmseg(tmp_path / "folder", tmp_path / "back.pth")
    made = segmenter(fpn_neck.Segmenter.from_pretrained(tmp_path / "folder"))
    assert made.metadata.first_value == 1
    files = []
    for given in (path, tmp_path / "folder", tmp_path / "back.pth"):
        result = fpn_neck.load(given, device="cpu")(photo)
        result.save(tmp_path / f"out{len(files)}")
        (file,) = (tmp_path / f"out{len(files)}/labels").iterdir()
        files.append(np.asarray(Image.open(file)))
        assert (files[-1] == result.labels + 1).all()
    assert all((file == files[0]).mean() > 0.99 for file in files)


def test_the_average_of_the_weights_is_taken(checkpoint, tmp_path):
    """mmengine's EMAHook saves the average as ``state_dict``, tests/mm/training/test_ema.py."""
    trained = {"module.decode_head.conv_seg.bias": torch.full((3,), 7.0), "steps": torch.tensor(3)}
    _, path = checkpoint({}, ema_state_dict=trained)
    to_segmenter(path, tmp_path / "folder")
    model = fpn_neck.Segmenter.from_pretrained(tmp_path / "folder")
    average = load_checkpoint(path)["state_dict"]["decode_head.conv_seg.bias"]
    assert torch.equal(model.head.conv_seg.bias, average) and not (average == 7).any()


def test_float16_halves_the_file_and_the_model_is_float32(checkpoint, photo, tmp_path):
    _, path = checkpoint({})
    sizes, found = [], []
    for half in (False, True):
        to_segmenter(path, tmp_path / "folder", float16=half)
        sizes.append((tmp_path / "folder/model.safetensors").stat().st_size)
        model = fpn_neck.Segmenter.from_pretrained(tmp_path / "folder").eval()
        assert all(v.dtype != torch.float16 for v in model.state_dict().values())
        with torch.no_grad():
            found.append(model(normalised(torch.from_numpy(photo), model.facts)))
    assert sizes[1] < 0.52 * sizes[0]
    assert not torch.equal(*found)
    spread = found[0].std()
    assert (found[1] - found[0]).abs().max() < 0.02 * spread


REFUSED = {
    "BGR": ({"model.data_preprocessor.bgr_to_rgb": False}, "holds no BGR images"),
    "threshold": (BINARY | {f"{HEAD}.threshold": 0.3}, "holds no decode_head.threshold=0.3"),
    "windows": (
        {"model.test_cfg": dict(mode="slide", crop_size=(64, 64), stride=(32, 32))},
        "test_cfg.mode='slide'",
    ),
    "levels": (
        {
            f"{HEAD}.in_index": [0, 1, 2],
            f"{HEAD}.in_channels": [8] * 3,
            f"{HEAD}.feature_strides": [4, 8, 16],
        },
        "only all 4 levels in order",
    ),
    "backbone": (
        {
            "model.backbone": dict(
                _delete_=True,
                type="ResNetV1c",
                depth=18,
                base_channels=8,
                stem_channels=8,
                norm_cfg=dict(type="BN"),
            ),
            f"{NECK}.in_channels": [8, 16, 32, 64],
        },
        "holds no backbone ResNetV1c, only fpn_neck.TimmBackbone",
    ),
    "neck": (
        {f"{NECK}.type": "FPN", f"{NECK}.num_outs": 4},
        "holds no neck FPN, only fpn_neck.FPN",
    ),
    "head": ({f"{HEAD}.type": "FPNHead"}, "holds no decode head FPNHead, only fpn_neck.FPNHead"),
    "padding": (
        {"model.data_preprocessor.test_cfg": dict(size_divisor=32)},
        "pads photos in testing",
    ),
    "pipeline": (
        {
            "test_dataloader.dataset.pipeline": [
                dict(type="LoadImageFromFile"),
                dict(type="RandomFlip", prob=1.0),
                dict(type="PackSegInputs"),
            ]
        },
        "only one Resize with a scale can",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_segmenter_cannot_hold_is_refused(checkpoint, tmp_path, case):
    options, words = REFUSED[case]
    _, path = checkpoint(options)
    with pytest.raises(ValueError) as refused:
        to_segmenter(path, tmp_path / "folder")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "folder").exists()


def test_the_verb_goes_both_ways(checkpoint, tmp_path, call_tool, assert_refused):
    cfg, path = checkpoint({})
    folder, back = tmp_path / "folder", tmp_path / "back.pth"
    ways = ["--from", "mmseg", "--to", "segmenter"], ["--from", "segmenter", "--to", "mmseg"]
    done = call_tool("convert_checkpoint", path, folder, *ways[0], "--float16", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["mapped"]["decode_head.conv_seg.bias"] == "head.conv_seg.bias"
    assert document["written"] == str(folder) and not document["unmapped"]
    done = call_tool("convert_checkpoint", folder, back, *ways[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(document['mapped'])} keys written: {back}\n"

    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint(path)["state_dict"], bare)
    assert_refused(call_tool("convert_checkpoint", bare, folder, *ways[0]), "holds no config")
    metainfo = NAMES | {"classes": list(NAMES["classes"])}
    cfg.test_dataloader.dataset.metainfo = metainfo
    cfg.dump(tmp_path / "model.py")
    config = ["--config", tmp_path / "model.py"]
    done = call_tool("convert_checkpoint", bare, tmp_path / "other", *ways[0], *config)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other/model.safetensors").exists()

    ways = ["--from", "smp", "--to", "segmenter"]
    assert_refused(call_tool("convert_checkpoint", path, folder, *ways), "comes from mmseg")
    ways = ["--from", "segmenter", "--to", "mmseg", "--float16"]
    assert_refused(call_tool("convert_checkpoint", folder, back, *ways), "--to segmenter")
