"""Checkpoints of another model, and those that would run code, in train.py, test.py, predict.py."""

import json
import shutil

import pytest
import torch
from helpers.project import PROJECT

for _package in ("mmseg", "timm", "pycocotools"):
    pytest.importorskip(_package)

from fpn_neck.datasets.shapes.write import CLASSES  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

OTHER_K = ["--cfg-options", "model.decode_head.num_classes=9"]
K_DIFFERS = (
    "is of another model: 2 of another shape: decode_head.conv_seg.weight (7, 64, 1, 1) for "
    "(9, 64, 1, 1), decode_head.conv_seg.bias (7,) for (9,)"
)
OTHER_BACKBONE = [
    "--cfg-options",
    "model.backbone.model_name=resnet18",
    "model.neck.in_channels=[64,128,256,512]",
]


def refused_late(done, *words):
    """Exit code 2 and a last line for the user, after what a Runner prints when it is built."""
    assert "Traceback" not in done.stderr
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last, (word, last)


# ---------------------------------------------------------------------------------- another model


@pytest.mark.parametrize("option", ["load_from", "--resume"])
def test_training_from_another_k_lists_what_differs(trained, run_tool, tmp_path, option):
    arguments = [trained.config, "--work-dir", tmp_path / "work", "--no-check", *OTHER_K]
    if option == "load_from":
        arguments.append(f"load_from={trained.checkpoint}")
    else:
        arguments += [option, trained.checkpoint]
    done = run_tool("train", *arguments, cwd=tmp_path)
    refused_late(done, trained.checkpoint.name, K_DIFFERS, "--allow-mismatch")
    assert not list((tmp_path / "work").rglob("*.pth"))


def test_resuming_with_another_optimizer(trained, run_tool, tmp_path):
    options = ["--cfg-options", "optim_wrapper.optimizer.type=SGD"]
    arguments = ["--work-dir", tmp_path / "work", "--resume", trained.checkpoint, *options]
    done = run_tool("train", trained.config, *arguments, cwd=tmp_path)
    refused_late(done, trained.checkpoint.name, "AdamW, than SGD", "load_from")


SWAPPED = (*CLASSES[:2][::-1], *CLASSES[2:])


def test_classes_in_another_order(trained, run_tool, tmp_path, write_config):
    """The weights fit, and every metric would be of other labels."""
    text = f"_base_ = {str(trained.config)!r}\nmeta = dict(classes={SWAPPED!r})\n"
    text += "test_dataloader = dict(dataset=dict(metainfo=meta))\n"
    config = write_config("swapped", text)
    done = run_tool("test", config, trained.checkpoint, "--work-dir", tmp_path, cwd=tmp_path)
    label = f"label 0 is {CLASSES[0]!r} and {CLASSES[1]!r}"
    refused_late(done, f"test_dataloader in another order: {label}", "--allow-mismatch")


def test_training_from_what_fits(trained, run_tool, tmp_path):
    options = [f"load_from={trained.checkpoint}", "optim_wrapper.optimizer.lr=0.0"]
    options += ["train_cfg.max_iters=1", "train_cfg.val_interval=100"]
    options += ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.save_best=None"]
    # The data have 7 classes.
    arguments = [trained.config, "--work-dir", tmp_path / "work", "--allow-mismatch", "--no-check"]
    done = run_tool("train", *arguments, *OTHER_K, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tensors loaded; 2 of another shape: decode_head.conv_seg.weight" in done.stdout
    before, after = (
        load_checkpoint(path)["state_dict"]
        for path in (trained.checkpoint, tmp_path / "work/iter_1.pth")
    )
    assert after["decode_head.conv_seg.bias"].shape == (9,)
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # one step moved them
    kept = [k for k in before if "conv_seg" not in k and not k.endswith(statistics)]
    assert len(kept) > 100
    assert all(torch.equal(before[k], after[k]) for k in kept)


def test_a_mismatch_is_not_for_resuming(call_tool, assert_refused, trained):
    done = call_tool("train", trained.config, "--resume", trained.checkpoint, "--allow-mismatch")
    assert_refused(done, "--allow-mismatch", "load_from=FILE")


@pytest.mark.parametrize("allow", [False, True])
def test_testing_another_k(trained, run_tool, tmp_path, allow):
    arguments = [trained.config, trained.checkpoint, "--work-dir", tmp_path / "work", *OTHER_K]
    done = run_tool("test", *arguments, *["--allow-mismatch"] * allow, cwd=tmp_path)
    if not allow:
        refused_late(done, trained.checkpoint.name, K_DIFFERS, "--allow-mismatch")
        return
    assert done.returncode == 0, done.stderr
    assert "tensors loaded; 2 of another shape: decode_head.conv_seg.weight" in done.stdout
    assert "mIoU" in done.stdout


@pytest.fixture
def photo(shapes_root):
    return sorted((shapes_root / "val/images").iterdir())[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (OTHER_K, [K_DIFFERS]),
        (OTHER_BACKBONE, ["missing (backbone ", "left over (backbone ", "backbone.net."]),
    ],
    ids=["K", "backbone"],
)
def test_predicting_with_another_model(
    trained, call_tool, assert_refused, photo, tmp_path, changes, words
):
    arguments = [trained.config, trained.checkpoint, photo, "--out", tmp_path / "out", *changes]
    done = call_tool("predict", *arguments)
    assert_refused(done, *words, "--allow-mismatch")
    assert len(done.stderr) < 1500
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match=r" tensors loaded; .* of another shape"):
        done = call_tool("predict", *arguments, "--allow-mismatch")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"out/labels/{photo.stem}.png").is_file()


@pytest.fixture
def detector(tmp_path):
    """A Faster R-CNN of the shapes' six classes: its config and a checkpoint."""
    pytest.importorskip("mmdet")
    from mmengine.registry import MODELS, DefaultScope

    from fpn_neck.mm.config.load import drop_pretraining, load_config

    folder = PROJECT / "configs/detection"
    config = folder / "faster-rcnn_lite0_fpn_demo_shapes-256x320.py"
    cfg = load_config(str(config))
    drop_pretraining(cfg.model)
    with DefaultScope.overwrite_default_scope("mmdet"):
        state = MODELS.build(cfg.model).state_dict()
    path = tmp_path / "six.pth"
    torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": CLASSES[1:]}}}, path)
    return config, path


def test_detecting_with_another_k(detector, call_tool, assert_refused, photo, tmp_path):
    k = ["--cfg-options", "model.roi_head.bbox_head.num_classes=9"]
    # Detections of every class, to be named and drawn.
    k += ["model.test_cfg.rcnn.score_thr=0.0", "model.test_cfg.rcnn.max_per_img=-1"]
    k += ["model.test_cfg.rpn.max_per_img=20"]
    arguments = [*detector, photo, "--out", tmp_path / "out", "--score-thr", "0", *k]
    words = ["4 of another shape (roi_head 4): roi_head.bbox_head.fc_cls.weight (7, 512)"]
    assert_refused(call_tool("predict", *arguments), "six.pth", *words, "(10, 512)")
    with pytest.warns(UserWarning, match=r"six\.pth: \d+ tensors loaded; 4 of another shape"):
        done = call_tool("predict", *arguments, "--allow-mismatch")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "out/detections.json").read_text()).values()
    names = {detection["label"] for detection in found}
    assert names == {*CLASSES[1:], "class 6", "class 7", "class 8"}


# ----------------------------------------------------------------------------------- code to run


@pytest.mark.parametrize("option", ["load_from", "--resume"])
def test_training_does_not_run_a_pickle(
    call_tool, assert_refused, trained, evil_checkpoint, option
):
    arguments = ["--resume", evil_checkpoint]
    if option == "load_from":
        arguments = ["--cfg-options", f"load_from={evil_checkpoint}"]
    done = call_tool("train", trained.config, *arguments)
    assert_refused(done, "evil.pth", "code")
    assert not (evil_checkpoint.parent / "executed").exists()


def test_resuming_by_itself_does_not_run_a_pickle(trained, run_tool, evil_checkpoint):
    """The last checkpoint of a work dir that somebody else wrote."""
    folder = evil_checkpoint.parent
    (folder / "work").mkdir()
    shutil.copy(evil_checkpoint, folder / "work/iter_4.pth")
    (folder / "work/last_checkpoint").write_text(str(folder / "work/iter_4.pth"))
    arguments = [trained.config, "--work-dir", folder / "work", "--resume"]
    refused_late(run_tool("train", *arguments, cwd=folder), "iter_4.pth", "code")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("tool", ["convert_checkpoint", "make_proposals"])
def test_the_other_tools_do_not_run_a_pickle(
    call_tool, assert_refused, evil_checkpoint, tool, suffix
):
    evil, folder = evil_checkpoint.with_suffix(f".{suffix}"), evil_checkpoint.parent
    if suffix != "pth":
        evil_checkpoint.rename(evil)
    config = "mmdet::rpn/rpn_r50_fpn_1x_coco.py"
    arguments = {
        "convert_checkpoint": [evil, folder / "out.pth", "--from", "mmdet", "--to", "mmseg"],
        "make_proposals": [config, evil, "--out", folder / "proposals.pkl"],
    }
    assert_refused(call_tool(tool, *arguments[tool]), evil.name, "code")
    assert not (folder / "executed").exists()
