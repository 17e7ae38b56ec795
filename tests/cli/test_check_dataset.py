"""tools/check_dataset.py, and the quick check of the data in tools/train.py."""

import json
import logging
import os
import shutil
import threading
import time
from argparse import ArgumentParser

import numpy as np
import pytest
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmseg", "mmdet", "timm", "pycocotools", "rich"):
    pytest.importorskip(_package)

from fpn_neck.datasets.check import kinds  # noqa: E402
from fpn_neck.datasets.check.findings import RefusedData  # noqa: E402
from fpn_neck.datasets.shapes import CLASSES  # noqa: E402
from fpn_neck.mm.config.arguments import Options  # noqa: E402
from fpn_neck.mm.config.data_sources import check_files  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402

CLOTHING = PROJECT.parent / "shared" / "clothing"
SEGMENT = {"id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
SEGMENTER = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
DETECTOR = PROJECT / "configs/detection/faster-rcnn_lite0_fpn_demo_shapes-256x320.py"
MASK_DETECTOR = PROJECT / "configs/detection/mask-rcnn_lite0_fpn_1xb4-600_shapes-256x320.py"
PANOPTIC = PROJECT / "configs/detection/panoptic-fpn_lite0_fpn_1xb4-600_shapes-256x320.py"

# mmseg's own class on the scenes' files, which lists its folders.
LISTED = """
_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='BaseSegDataset', data_root=ROOT, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    data_prefix=dict(img_path='train/images', seg_map_path='train/labels'),
    metainfo=dict(classes=CLASSES)))
model = dict(decode_head=dict(num_classes=len(CLASSES)))
"""


@pytest.fixture(autouse=True)
def quiet():
    """mmengine's logger would write to the stderr that an earlier test has closed."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def data(shapes_root, tmp_path, monkeypatch):
    """A copy of the scenes to be spoilt: ten for training, four for validation."""
    root = tmp_path / "shapes"
    shutil.copytree(shapes_root, root)
    monkeypatch.setenv("SHAPES_ROOT", str(root))
    return root


@pytest.fixture
def check(call_tool, tmp_path):
    """Run the tool on a config; its report as JSON, whose findings the exit code agrees with."""

    def run(config, *arguments, workers=1):
        file = tmp_path / "report.json"
        done = call_tool("check_dataset", config, "--json", file, "--workers", workers, *arguments)
        assert done.returncode in (0, 1), done.stderr
        report = json.loads(file.read_text())
        assert bool(report["findings"]) == (done.returncode == 1)
        for finding in report["findings"]:
            for word in finding.values():
                assert word in done.stdout
        return report

    return run


def only(report, kind, file, *words):
    """The one finding has this rule, this file and these words in its value."""
    (finding,) = report["findings"]
    assert (finding["rule"], finding["remedy"]) == kind
    assert finding["file"].endswith(str(file))
    for word in words:
        assert word in finding["value"], (word, finding["value"])


def mask(root, number=3, split="train"):
    return root / f"{split}/labels/{number:06d}.png"


def photo(root, number=3, split="train"):
    return root / f"{split}/images/{number:06d}.jpg"


def change(path, function):
    Image.fromarray(function(np.array(Image.open(path)))).save(path)


def edit(root, function, split="train"):
    path = root / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------- clean data sets


@pytest.mark.parametrize("config", [SEGMENTER, DETECTOR, PANOPTIC], ids=lambda path: path.stem)
def test_the_scenes_pass(check, data, config):
    report = check(config)
    train, val = report["data_sets"]
    assert (train["splits"], val["splits"]) == ("train", "val, test")
    assert (train["photos"], val["photos"]) == (10, 4)


def test_the_histogram_counts_every_pixel(check, data):
    (counts,) = check(SEGMENTER, workers=2)["data_sets"][0]["histograms"]
    maps = [np.array(Image.open(mask(data, i))) for i in range(1, 11)]
    for i, label in enumerate(counts["labels"]):
        assert label["pixels"] == sum(int((m == i).sum()) for m in maps)
        assert label["photos"] == sum(bool((m == i).any()) for m in maps)
    assert [label["name"] for label in counts["labels"]][:2] == ["background", "circle"]


def test_the_histogram_counts_every_box(check, data):
    def drop_circles(content):
        left = [a for a in content["annotations"] if a["category_id"] != 1]
        content["annotations"] = left

    edit(data, drop_circles)
    (counts,) = check(DETECTOR)["data_sets"][0]["histograms"]
    content = json.loads((data / "annotations/instances_train.json").read_text())
    assert sum(label["boxes"] for label in counts["labels"]) == len(content["annotations"])
    assert counts["absent"] == ["circle"]  # no finding


@pytest.mark.skipif(not CLOTHING.is_dir(), reason="no clothing photos in ../shared/clothing")
def test_the_clothing_photos_pass(check, monkeypatch):
    monkeypatch.setenv("CLOTHING_ROOT", str(CLOTHING))
    config = PROJECT / "configs/segmentation/fpn_lite0_1xb16-2400_clothing-320x224.py"
    report = check(config, workers=2)
    train, val = report["data_sets"]
    assert train["photos"] + val["photos"] == 900
    (counts,) = val["histograms"]
    assert len(counts["labels"]) == 59 and len(counts["absent"]) == 59 - 48


# ---------------------------------------------------------------------------- label masks, photos


def _palette(root):
    picture = Image.open(mask(root))
    picture.putpalette([i for value in range(256) for i in (value, 0, 255 - value)])
    picture.save(mask(root))


def _cut(path, part):
    def spoil(root):
        whole = path(root).read_bytes()
        path(root).write_bytes(whole[: int(part * len(whole))])

    return spoil


MASKS = {
    "value": (
        lambda root: change(mask(root), lambda m: np.where(m == m[0, 0], 9, m).astype(np.uint8)),
        kinds.NO_LABEL,
        "000003.png",
        "hold 9; labels are 0..6 and 255 (ignored)",
    ),
    "RGB": (
        lambda root: Image.open(mask(root)).convert("RGB").save(mask(root)),
        kinds.COLOURS,
        "000003.png",
        "PNG, mode RGB",
    ),
    "palette": (_palette, kinds.MIXED_PALETTE, "000003.png", "mode P"),
    "JPEG": (
        lambda root: Image.open(mask(root)).save(mask(root), format="JPEG"),
        kinds.LOSSY,
        "000003.png",
        "JPEG",
    ),
    "size": (
        lambda root: change(mask(root), lambda m: m[:-1]),
        kinds.SIZE,
        "000003.png",
        "mask 96x63, photo 96x64",
    ),
    "cut photo": (_cut(photo, 0.6), kinds.UNREADABLE, "000003.jpg", "truncated"),
    "cut mask": (_cut(mask, 0.6), kinds.UNREADABLE, "000003.png", "bytes"),
    "empty photo": (_cut(photo, 0), kinds.UNREADABLE, "000003.jpg", "0 bytes"),
    "empty mask": (_cut(mask, 0), kinds.UNREADABLE, "000003.png", "0 bytes"),
    "no mask": (
        lambda root: mask(root).unlink(),
        kinds.NO_MASK,
        "000003.jpg",
        "labels/000003.png",
    ),
    "no photo": (
        lambda root: photo(root).unlink(),
        kinds.NO_PHOTO,
        "000003.png",
        "no photo",
    ),
    "capitals": (
        lambda root: Image.open(photo(root)).save(photo(root).with_name("new.JPG")),
        kinds.CAPITALS,
        "images/new.JPG",
        "*.jpg",
    ),
    "no photos": (
        lambda root: [path.unlink() for path in (root / "train").rglob("*.*")],
        kinds.EMPTY,
        "CONFIG",
        "no *.jpg in",
    ),
    "photos of another suffix": (
        lambda root: [
            path.rename(path.with_suffix(".jpeg")) if path.suffix == ".jpg" else path.unlink()
            for path in (root / "train").rglob("*.*")
        ],
        kinds.EMPTY,
        "CONFIG",
        ", but 10 .jpeg",
    ),
    "no folder": (
        lambda root: shutil.rmtree(root / "train"),
        kinds.NOT_LISTED,
        "CONFIG",
        "train/images",
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_spoilt_masks(check, write_config, data, case):
    spoil, kind, file, value = MASKS[case]
    spoil(data)
    classes = "('background', 'circle', 'square', 'triangle', 'star', 'ring', 'cross')"
    text = LISTED.replace("ROOT", repr(str(data))).replace("CLASSES", classes)
    config = write_config("listed", text)
    only(check(config), kind, str(config) if file == "CONFIG" else file, value)


@pytest.fixture
def binary(write_config, data):
    """A config of two classes on masks of 0 and 1."""
    for path in (data / "train/labels").iterdir():
        change(path, lambda m: (m > 0).astype(np.uint8))
    text = LISTED.replace("ROOT", repr(str(data))).replace("CLASSES", "('no', 'yes')")
    return write_config("binary", text + "val_dataloader = test_dataloader = None\n")


def test_binary_masks_pass(check, binary):
    assert check(binary)["findings"] == []


@pytest.mark.parametrize(
    ("count", "head", "fits"),
    [(255, "", True), (256, "", False), (256, ", ignore_index=None", True), (300, "", False)]
    + [(300, ", ignore_index=65535", False)],
)
def test_more_classes_than_8_bits_hold(check, write_config, data, count, head, fits):
    """Masks are read with 8 bits: label 290 would be 34, and label 255 is ignored."""
    text = LISTED.replace("ROOT", repr(str(data)))
    text = text.replace("num_classes=len(CLASSES)", f"num_classes={count}{head}")
    text = text.replace("CLASSES", f"[str(i) for i in range({count})]")
    report = check(write_config("many", text + "val_dataloader = test_dataloader = None\n"))
    if fits:
        assert report["findings"] == []
    else:
        only(report, kinds.EIGHT_BITS, "many.py", f"train: labels are 0..{count - 1}")


def test_masks_of_0_and_255(check, binary, data):
    change(mask(data), lambda m: m * 255)
    assert check(binary)["findings"] == []  # 255 is ignored where others hold label 1
    for path in (data / "train/labels").iterdir():
        change(path, lambda m: np.where(m, 255, 0).astype(np.uint8))
    rules = {finding["rule"] for finding in check(binary)["findings"]}
    assert rules == {kinds.ZERO_255.rule}


@pytest.mark.parametrize(
    ("resize", "becomes"),
    [
        ("dict(type='Resize', scale=(96, 64), keep_ratio=True)", "96x0 in the scale (96, 64)"),
        (
            "dict(type='RandomResize', scale=(96, 64), ratio_range=(0.5, 2), keep_ratio=True)",
            "48x0 in the scale (48, 32)",
        ),
        (
            "dict(type='RandomResize', scale=[(90, 60), (300, 200)], keep_ratio=True)",
            "90x0 in the scale (90, 60)",
        ),
        (
            "dict(type='RandomChoiceResize', scales=[(960, 64), (96, 64)], keep_ratio=True)",
            "96x0 in the scale (96, 64)",
        ),
        ("dict(type='Resize', scale=(96, 64))", ""),  # stretched
        ("dict(type='Resize', scale=(960, 640), keep_ratio=True)", ""),
        ("dict(type='RandomCrop', crop_size=(1, 9)), dict(type='Resize', scale=(9, 9))", ""),
    ],
)
def test_a_photo_of_which_resizing_leaves_nothing(check, data, write_config, resize, becomes):
    for file, size in ((photo(data), (400, 2)), (mask(data), (400, 2))):
        Image.new("RGB" if file.suffix == ".jpg" else "L", size).save(file)
    text = LISTED.replace(
        "dict(type='LoadAnnotations'),", f"dict(type='LoadAnnotations'), {resize},"
    )
    config = write_config(
        "narrow", text.replace("ROOT", repr(str(data))).replace("CLASSES", repr(CLASSES))
    )
    report = check(config)
    if becomes:
        only(report, kinds.VANISHES, photo(data), f"400x2 px becomes {becomes}")
    else:
        assert not [f for f in report["findings"] if f["rule"] == kinds.VANISHES.rule]


@pytest.mark.parametrize("config", [SEGMENTER, DETECTOR], ids=lambda path: path.stem)
def test_splits_with_their_classes_in_different_orders(check, data, write_config, config):
    names = CLASSES if config is SEGMENTER else CLASSES[1:]  # without background
    meta = dict(classes=(*names[:2][::-1], *names[2:]))
    text = f"_base_ = {str(config)!r}\nval_dataloader = dict(dataset=dict(metainfo={meta!r}))"
    report = check(write_config("swapped", text), "--splits", "train", "val")
    orders = [f for f in report["findings"] if f["rule"] == kinds.CLASS_ORDER.rule]
    assert [f["value"] for f in orders] == [
        f"train and val: label 0 is {names[0]!r} and {names[1]!r}"
    ]
    check_same = write_config("same", f"_base_ = {str(config)!r}")
    assert check(check_same, "--splits", "train", "val")["findings"] == []


def test_splits_that_count_labels_from_different_values(check, binary):
    """Each split's masks hold right labels by its own setting."""
    split = "dict(train_dataloader, dataset=dict(train_dataloader['dataset'], OPTION))"
    split = split.replace("OPTION", "reduce_zero_label=True, seg_map_suffix=SUFFIX")
    text = binary.read_text()
    binary.write_text(text + f"val_dataloader = {split.replace('SUFFIX', repr('.png'))}\n")
    report = check(binary)
    found = [f for f in report["findings"] if f["rule"] == kinds.NUMBERING.rule]
    assert [f["value"] for f in found] == ["train: reduce_zero_label=False, val: True"]
    # Masks of another kind may count from another value.
    binary.write_text(text + f"val_dataloader = {split.replace('SUFFIX', repr('_other.png'))}\n")
    rules = [f["rule"] for f in check(binary)["findings"]]
    assert kinds.NUMBERING.rule not in rules


def test_reduce_zero_label_on_binary_masks(check, binary):
    option = "train_dataloader.dataset.reduce_zero_label=True"
    report = check(binary, "--cfg-options", option)
    only(report, kinds.BINARY_REDUCED, "binary.py: train", "1 becomes 0")


def test_a_panoptic_detectors_masks_are_read_as_its_pipeline_reads_them(check, data):
    change(mask(data), lambda m: np.where(m == m[0, 0], 9, m).astype(np.uint8))
    only(check(PANOPTIC), kinds.NO_LABEL, "000003.png", "after reduce_zero_label")


def test_opencv_would_read_a_palettes_colours(check, data):
    for path in (data / "train/labels").iterdir():  # all alike, which pillow reads as labels
        picture = Image.open(path)
        picture.putpalette([i for value in range(256) for i in (value, 0, 255 - value)])
        picture.save(path)
    assert check(SEGMENTER)["findings"] == []
    rules = [finding["rule"] for finding in check(PANOPTIC)["findings"]]
    assert rules == [kinds.COLOURS.rule] * 10


# ------------------------------------------------------------------------------------------ boxes


def _box(value):
    return lambda root: edit(root, lambda c: c["annotations"][4].update(bbox=value))


BOXES = {
    "empty": (_box([1, 2, 0, 5]), kinds.EMPTY_BOX, "bbox [1, 2, 0, 5]"),
    "outside": (_box([90, 2, 20, 5]), kinds.OUTSIDE, "photo 96x64"),
    "category": (
        lambda root: edit(root, lambda c: c["annotations"][4].update(category_id=77)),
        kinds.NO_CATEGORY,
        "category_id 77",
    ),
    "names": (
        lambda root: edit(root, lambda c: c["categories"][1].update(name="sqare")),
        kinds.CATEGORIES,
        "'sqare' is",
    ),
    "order": (
        lambda root: edit(root, lambda c: c["categories"].reverse()),
        kinds.CATEGORIES,
        "label 0 becomes 'cross'",
    ),
    "truncated": (
        _cut(lambda root: root / "annotations/instances_train.json", 0.5),
        kinds.UNREADABLE,
        "bytes",
    ),
}


@pytest.mark.parametrize("case", BOXES)
def test_spoilt_boxes(check, data, case):
    spoil, kind, value = BOXES[case]
    spoil(data)
    only(check(DETECTOR), kind, "annotations/instances_train.json", value)


def test_a_box_without_an_outline(check, data):
    edit(data, lambda c: c["annotations"][4].pop("segmentation"))
    only(check(DETECTOR), kinds.NO_OUTLINE, "instances_train.json", "segmentation None")
    boxes_only = "train_dataloader.dataset.pipeline.1.with_mask=False"
    assert check(DETECTOR, "--cfg-options", boxes_only)["findings"] == []


def test_a_photo_of_another_size_than_its_annotation(check, data):
    change(photo(data), lambda m: m[:, :-1])
    only(check(DETECTOR), kinds.SIZE, "000003.jpg", "photo 95x64, its annotation 96x64")


def test_a_photo_that_is_not_there(check, data):
    photo(data).unlink()
    only(check(DETECTOR), kinds.MISSING, "000003.jpg", "no such file")


@pytest.mark.parametrize("absent", [False, True])
def test_training_without_boxes(check, data, absent):
    def drop(content):
        del content["annotations"][:]
        if absent:
            del content["annotations"]

    edit(data, drop, "val")
    only(check(DETECTOR), kinds.NO_SCORE, "instances_val.json", "0 annotations")
    options = [f"{name}_evaluator.format_only=True" for name in ("val", "test")]
    assert check(DETECTOR, "--cfg-options", *options)["findings"] == []
    edit(data, drop)
    report = check(DETECTOR, "--cfg-options", *options)
    only(report, kinds.NO_BOX, "instances_train.json", "0 annotations")


def _each(split, **changes):
    """Change every annotation; None removes a key."""

    def spoil(root):
        def function(content):
            for one in content["annotations"]:
                one.update(changes)
                [one.pop(key) for key, value in changes.items() if value is None]

        edit(root, function, split)

    return spoil


def _numbered_from_0(root):
    def function(content):
        for i, one in enumerate(content["annotations"]):
            one["id"] = i

    edit(root, function, "val")


def _nothing(root):
    pass


TRAIN_FILE, VAL_FILE = "instances_train.json", "instances_val.json"
SILENT = {
    "crowds only": (_each("train", iscrowd=1), (), "NO_BOX", TRAIN_FILE, " with iscrowd set"),
    "ignored only": (_each("train", ignore=1), (), "NO_BOX", TRAIN_FILE, " with ignore set"),
    "filtered": (
        _nothing,
        ["train_dataloader.dataset.filter_cfg.min_size=999"],
        *("FILTERED", TRAIN_FILE, "leave none of 10 photos"),
    ),
    "no photo of it": (
        _nothing,
        ["train_dataloader.dataset.indices=0"],
        *("FILTERED", TRAIN_FILE, "indices=0 leave none of 10 photos"),
    ),
    "no iscrowd": (_each("val", iscrowd=None), (), "NO_CROWD", VAL_FILE, "iscrowd None"),
    "id 0": (_numbered_from_0, (), "ID_ZERO", VAL_FILE, "annotation 0 of"),
    "crowds judge": (_each("val", iscrowd=1), (), "NO_SCORE", VAL_FILE, "none of them"),
    "no outlines": (
        _each("val", segmentation=None),
        ["val_evaluator.metric=[bbox,segm]"],
        *("NO_OUTLINE", VAL_FILE, "segmentation None"),
    ),
    "training file judges": (
        _nothing,
        ["val_evaluator.ann_file={data}/annotations/instances_train.json"],
        *("OTHER_TRUTH", "val_evaluator.ann_file", "of its 10 photos are not shown"),
    ),
    "fewer photos": (
        _nothing,
        ["val_dataloader.dataset.indices=3"],
        *("OTHER_TRUTH", "val_evaluator.ann_file", "1 of its 4 photos are not shown"),
    ),
    "no annotations": (
        _nothing,
        ["val_evaluator.ann_file=None"],
        *("NO_TRUTH", "faster-rcnn_lite0_fpn_demo_shapes-256x320.py", "ann_file=None"),
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_would_train_or_score_wrong_without_a_word(check, data, case):
    """The quick check before training finds it, too."""
    spoil, options, kind, file, value = SILENT[case]
    spoil(data)
    options = [option.format(data=data) for option in options]
    arguments = ["--cfg-options", *options] if options else []
    found = check(DETECTOR, "--splits", "train", "val", *arguments)["findings"]
    assert {one["rule"] for one in found} == {getattr(kinds, kind).rule}
    assert found[0]["file"].endswith(file) and value in found[0]["value"], found
    if kind != "NO_OUTLINE":  # the full check names each of these
        assert len(found) == 1
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=Options)
    cfg = load_config(str(DETECTOR), parser.parse_args(arguments).cfg_options)
    with pytest.raises(RefusedData) as refused:
        check_files(cfg, str(DETECTOR), "train", "val")
    (finding,) = refused.value.findings
    assert finding.kind == getattr(kinds, kind)
    assert finding.file.endswith(file) and value in finding.value


def test_instances_in_the_samples_judge(check, data):
    keys = "[img_id,img_path,ori_shape,img_shape,scale_factor,instances]"
    options = ["val_evaluator.ann_file=None", f"val_dataloader.dataset.pipeline.3.meta_keys={keys}"]
    report = check(DETECTOR, "--splits", "val", "--cfg-options", *options)
    assert report["findings"] == []


def test_indices_that_leave_no_photo_and_mask(check, data):
    option = "train_dataloader.dataset.indices=0"
    report = check(SEGMENTER, "--splits", "train", "--cfg-options", option)
    only(report, kinds.FILTERED, SEGMENTER, "train: indices=0 leave none of 10 photos")


def test_an_evaluator_may_be_one_of_a_list_or_a_class(check, write_config, data):
    text = f"""
_base_ = {str(DETECTOR)!r}
file = {str(data / "annotations/instances_train.json")!r}
val_evaluator = [
    dict(type='mmdet.CocoMetric', ann_file={{{{_base_.val_evaluator.ann_file}}}}),
    dict(type='CocoMetric', ann_file=file, prefix='other', _delete_=True)]
"""
    report = check(write_config("several", text), "--splits", "val")
    only(report, kinds.OTHER_TRUTH, "several.py: val_evaluator.ann_file", "instances_train.json")


def test_a_photo_of_two_entries(check, data):
    edit(data, lambda c: c["images"].append(c["images"][2] | {"id": 99}))
    only(check(DETECTOR), kinds.LISTED_TWICE, "000003.jpg", "2 times in", "train.json")


def test_a_photo_of_negative_width(check, data):
    edit(data, lambda c: c["images"][2].update(width=-96))
    only(check(DETECTOR), kinds.SIZE, "000003.jpg", "its annotation -96x64")


# ----------------------------------------------------------------------------------- split files


@pytest.fixture
def listed(write_config, data):
    """Check with a split file of these bytes."""
    classes = "('background', 'circle', 'square', 'triangle', 'star', 'ring', 'cross')"
    text = LISTED.replace("ROOT", repr(str(data))).replace("CLASSES", classes)
    text += "train_dataloader['dataset'].update(ann_file='split.txt')\n"
    config = write_config("listed", text + "val_dataloader = test_dataloader = None\n")

    def write(content):
        (data / "split.txt").write_bytes(content)
        return config

    return write


@pytest.mark.parametrize(
    ("content", "kind", "file", "word"),
    [
        (b"", kinds.EMPTY, "listed.py", "no name in"),
        (b"\xef\xbb\xbf000003\n", kinds.BOM, "split.txt", "U+FEFF"),
        (b"000001\n000003.jpg\n", kinds.SUFFIXED, "split.txt", "'000003.jpg' exists"),
        (b"000003\n\xe9\n", kinds.UNREADABLE, "split.txt", "not a text in UTF-8"),
        (b"000003\n000001\n000003\n", kinds.LISTED_TWICE, "000003.jpg", "split.txt"),
    ],
)
def test_spoilt_split_files(check, listed, content, kind, file, word):
    only(check(listed(content)), kind, file, word)


def test_a_right_split_file_passes(check, listed):
    assert check(listed(b"000003\r\n000001"))["findings"] == []


def test_hidden_files_are_ignored(check, data):
    mask(data).with_name("._000003.png").write_bytes(b"Mac OS X")
    photo(data).with_name("._000003.jpg").write_bytes(b"Mac OS X")
    assert check(SEGMENTER)["findings"] == []


# ----------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("config", "option", "kind", "word"),
    [
        (SEGMENTER, "model.decode_head.num_classes=8", "HEAD_CLASSES", "num_classes=8"),
        (DETECTOR, "model.roi_head.bbox_head.num_classes=80", "HEAD_CLASSES", "num_classes=80"),
        (
            SEGMENTER,
            "model.decode_head.loss_decode.0.class_weight=[1.0,2.0]",
            "WEIGHTS",
            "class_weight has 2 numbers, expected 7",
        ),
        (
            DETECTOR,
            "model.roi_head.bbox_head.loss_cls.class_weight=[1.0,2.0,3.0,4.0,5.0,6.0]",
            "WEIGHTS",
            "expected 7",
        ),
    ],
)
def test_a_config_that_does_not_fit(check, data, config, option, kind, word):
    report = check(config, "--splits", "train", "--cfg-options", option)
    only(report, getattr(kinds, kind), config, word)


def test_classes_without_a_comma(check, data):
    option = "train_dataloader.dataset.metainfo.classes=circle"
    report = check(DETECTOR, "--splits", "train", "--cfg-options", option)
    only(report, kinds.CLASSES_TEXT, DETECTOR, "'circle'")


def test_classes_that_the_data_set_refuses(check, data):
    option = "train_dataloader.dataset.metainfo.classes=[circle,blob]"
    report = check(SEGMENTER, "--splits", "train", "--cfg-options", option)
    only(report, kinds.NOT_LISTED, SEGMENTER, "blob", "subset")


# -------------------------------------------------------------------------------- exit code 2


def test_wrong_usage(call_tool, assert_refused, write_config):
    assert_refused(call_tool("check_dataset", "no/such.py"), "no/such.py")
    config = write_config("empty", "model = dict(type='A')\n")
    assert_refused(call_tool("check_dataset", config), "has no data set")
    assert_refused(call_tool("check_dataset", SEGMENTER, "--workers", "0"), "--workers=0")
    assert_refused(call_tool("check_dataset", SEGMENTER, "--limit", "-1"), "--limit=-1")


def test_an_unwritable_report_is_one_line(call_tool, assert_refused, data, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--json", tmp_path / "file" / "report.json"]
    assert_refused(call_tool("check_dataset", SEGMENTER, *arguments), str(tmp_path / "file"))


def test_a_report_into_a_folder(call_tool, assert_refused, data, tmp_path):
    done = call_tool("check_dataset", SEGMENTER, "--json", tmp_path)
    assert_refused(done, f"--json: {tmp_path} is a folder: name a file")


def test_a_report_through_a_link_and_a_pipe(call_tool, data, tmp_path):
    arguments = ["check_dataset", SEGMENTER, "--splits", "val", "--workers", "1", "--json"]
    link, pipe = tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(tmp_path / "report.json")
    assert call_tool(*arguments, link).returncode == 0
    assert (
        link.is_symlink() and json.loads((tmp_path / "report.json").read_text())["findings"] == []
    )
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert call_tool(*arguments, pipe).returncode == 0
    reader.join(10)
    assert json.loads(read[0])["findings"] == [] and pipe.is_fifo()


def test_names_that_are_no_text(call_tool, write_config, data):
    """Of another file system, in a terminal that wants text."""
    name = os.fsencode(data) + b"/train/%s/l\xe9.%s"
    os.rename(photo(data), name % (b"images", b"jpg"))
    change(mask(data), lambda m: np.full_like(m, 99))
    os.rename(mask(data), name % (b"labels", b"png"))
    text = LISTED.replace("ROOT", repr(str(data))).replace("CLASSES", repr(("a",) * 7))
    config = write_config("listed", text)
    done = call_tool("check_dataset", config, "--splits", "train")
    assert done.returncode == 1, done.stderr
    assert r"labels/l\udce9.png: 6144 of 6144 pixels hold 99" in done.stdout


# ------------------------------------------------------------------------- what isn't known


@pytest.mark.parametrize(
    "option", ["pipeline.0.type=LoadBiomedicalImageFromFile", "type=NotOfThisProject"]
)
def test_other_data_sets_are_not_checked(check, data, monkeypatch, option):
    """Volumes, for example, or a class that isn't mmengine's."""
    from mmengine.registry import DATASETS

    monkeypatch.setitem(DATASETS.module_dict, "NotOfThisProject", object)
    report = check(SEGMENTER, "--cfg-options", f"train_dataloader.dataset.{option}")
    assert report["findings"] == []
    (note,) = report["data_sets"][0]["notes"]
    assert "not checked" in note


def test_an_unknown_class(check, data):
    report = check(SEGMENTER, "--cfg-options", "train_dataloader.dataset.type=Nowhere")
    only(report, kinds.NOT_REGISTERED, SEGMENTER, "Nowhere", "KeyError")


def test_mmdets_panoptic_data_set(check, data):
    """COCO's panoptic files, of which the photos, sizes, segments and categories are checked."""
    from mmdet.datasets import CocoPanopticDataset

    names = CocoPanopticDataset.METAINFO["classes"]
    categories = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(names)]
    path = data / "annotations/instances_train.json"
    content = json.loads(path.read_text()) | {"categories": categories}
    content["annotations"] = [
        {"image_id": image["id"], "file_name": "a.png", "segments_info": [SEGMENT]}
        for image in content["images"]
    ]
    path.write_text(json.dumps(content))
    config = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"
    options = [
        f"train_dataloader.dataset.{option}"
        for option in (f"data_root={data}/", f"ann_file={path}", "data_prefix.img=train/images/")
    ]
    arguments = [config, "--splits", "train", "--cfg-options", *options]
    report = check(*arguments)
    assert report["findings"] == []
    (part,) = report["data_sets"]
    assert part["photos"] == 10 and part["histograms"][0]["labels"][3]["boxes"] == 10
    for spoil, kind, value in (
        (lambda c: c["categories"][2].pop("isthing"), kinds.NOT_COCO, "'car': no isthing"),
        (lambda c: _segments(c, category_id=99), kinds.NO_BOX, "10 of none of the 80 classes"),
        (lambda c: _segments(c, iscrowd=1), kinds.NO_BOX, "10 with iscrowd set"),
    ):
        changed = json.loads(json.dumps(content))
        spoil(changed)
        path.write_text(json.dumps(changed))
        only(check(*arguments), kind, "instances_train.json", value)
    path.write_text(json.dumps(content))
    photo(data).unlink()
    only(check(*arguments), kinds.MISSING, "000003.jpg", "no such file")


def _segments(content, **changes):
    for one in content["annotations"]:
        one["segments_info"][0].update(changes)


@pytest.mark.parametrize("wrapper", ["RepeatDataset", "ConcatDataset"])
def test_wrapped_data_sets(check, write_config, data, wrapper):
    part = f"dict(type='fpn_neck.ShapesDataset', data_root={str(data)!r}, split=SPLIT, pipeline=P)"
    parts = {
        "RepeatDataset": f"times=2, dataset={part.replace('SPLIT', repr('train'))}",
        "ConcatDataset": "datasets=["
        + ", ".join(part.replace("SPLIT", repr(split)) for split in ("train", "val"))
        + "]",
    }[wrapper]
    text = f"""
_base_ = '{SEGMENTER}'
P = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(_delete_=True, type={wrapper!r}, {parts}))
"""
    report = check(write_config("wrapped", text))
    assert report["findings"] == []
    photos = {part["splits"]: part["photos"] for part in report["data_sets"]}
    assert (
        photos
        == {
            "RepeatDataset": {"train": 10, "val, test": 4},
            "ConcatDataset": {"train 1 of 2": 10, "train 2 of 2, val, test": 4},
        }[wrapper]
    )


# ----------------------------------------------------------------------------- before training


def turn_an_outline(root):
    """mmdet would reshape its RLE, to a scrambled mask."""
    edit(root, lambda content: content["annotations"][3]["segmentation"]["size"].reverse())


@pytest.mark.parametrize(
    ("config", "spoil", "option", "words"),
    [
        (SEGMENTER, None, "model.decode_head.num_classes=9", ["num_classes=9", "K=7"]),
        (SEGMENTER, MASKS["value"][0], None, ["000003.png", "hold 9"]),
        (SEGMENTER, MASKS["no mask"][0], None, ["000003.jpg", "000003.png"]),
        (SEGMENTER, MASKS["empty photo"][0], None, ["000003.jpg", "0 bytes"]),
        (DETECTOR, BOXES["names"][0], None, ["instances_train.json", "sqare"]),
        (MASK_DETECTOR, turn_an_outline, None, ["instances_train.json", "segmentation size"]),
    ],
)
def test_training_refuses(call_tool, data, tmp_path, config, spoil, option, words):
    if spoil:
        spoil(data)
    options = ["--cfg-options", option] if option else []
    done = call_tool("train", config, "--work-dir", tmp_path / "work", *options)
    assert done.returncode == 2
    *findings, last = done.stderr.splitlines()
    assert all(line.startswith("error: ") and "remedy: " in line for line in findings)
    assert all(word in findings[0] for word in words)
    assert "fpn-neck check " in last and "--no-check" in last
    assert not (tmp_path / "work").exists()


def test_training_shows_the_first_findings_only(call_tool, data):
    for number in range(1, 9):
        mask(data, number).unlink()
    lines = call_tool("train", SEGMENTER).stderr.splitlines()
    assert len(lines) == 7 and "3 more findings" in lines[5]


def test_no_check_skips_it(call_tool, assert_refused, data):
    """What is wrong next is told instead."""
    mask(data).unlink()
    options = ["--no-check", "--cfg-options", "load_from=no.pth"]
    assert_refused(call_tool("train", SEGMENTER, *options), "no.pth")


@pytest.mark.parametrize("config", [SEGMENTER, PANOPTIC], ids=lambda path: path.stem)
def test_the_quick_check_is_fast(data, config):
    """Once the frameworks are imported, which training has to do anyway."""
    cfg = load_config(str(config))
    check_files(cfg, str(config), "train", "val")
    start = time.process_time()
    check_files(cfg, str(config), "train", "val")
    assert time.process_time() - start < 1  # seconds; 0.1 with 700 scenes of 256 x 320
