"""RPN -> tools/make_proposals.py -> Fast R-CNN on tiny scenes, and every file that is refused."""

import json
import pickle
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.project import PROJECT

for _package in ("mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)

from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.mm.det.proposals_file import load_proposals  # noqa: E402

TRAIN, VAL, EMPTY = 6, 3, "images/000002.jpg"  # number of scenes; a scene without an object
FOUR = """
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{root}'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}'))
val_evaluator = dict(ann_file='{root}/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
randomness = dict(seed=0)
"""
RPN = (
    "_base_ = '{configs}/detection/rpn_lite0_fpn_1xb4-250_shapes-256x320.py'"
    + FOUR
    + """
model = dict(backbone=dict(checkpoint=None), test_cfg=dict(rpn=dict(max_per_img=200)))
test_dataloader = val_dataloader
"""
)
FAST = (
    "_base_ = '{configs}/detection/fast-rcnn_lite0_fpn_1xb4-300_shapes-256x320.py'"
    + FOUR
    + """
model = dict(backbone=dict(checkpoint=None))
train_dataloader['dataset']['proposal_file'] = '{train}'
val_dataloader['dataset']['proposal_file'] = '{val}'
test_dataloader = val_dataloader
"""
)
DUMP = """
_base_ = '{rpn}'
test_evaluator = dict(_delete_=True, type='DumpProposals', output_dir='{out}')
"""


def make(rpn, out, **options):
    """What the tool calls, in this process: seconds faster."""
    from fpn_neck.mm.det.make_proposals import make_proposals

    options = {"split": "val", "device": "cpu", "track": lambda batches, total: batches} | options
    return make_proposals(load_config(str(rpn.config)), str(rpn.checkpoint), out, **options)


@pytest.fixture(scope="module")
def root(shapes_root, tmp_path_factory):
    """The scenes, fewer; one for training has no object, and training leaves it out."""
    root = tmp_path_factory.mktemp("two_step") / "shapes"
    shutil.copytree(shapes_root, root)
    for split, count in {"train": TRAIN, "val": VAL}.items():
        file = root / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text())
        content["images"] = content["images"][:count]
        left = [a for a in content["annotations"] if a["image_id"] <= count]
        content["annotations"] = [a for a in left if (split, a["image_id"]) != ("train", 2)]
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def rpn(run_tool, write_config, root, tmp_path_factory):
    """An RPN after two steps."""
    config = write_config("rpn", RPN.replace("{root}", str(root)))
    work_dir = tmp_path_factory.mktemp("rpn")
    done = run_tool("train", config, "--work-dir", work_dir, cwd=work_dir)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(config=config, checkpoint=work_dir / "iter_2.pth", work_dir=work_dir)


@pytest.fixture(scope="module")
def proposals(rpn, tmp_path_factory):
    """Files of both splits, and the recall of val's."""
    folder = tmp_path_factory.mktemp("proposals")
    make(rpn, folder / "train.pkl", split="train")
    return SimpleNamespace(folder=folder, recall=make(rpn, folder / "val.pkl"))


@pytest.fixture
def fast(write_config, proposals, root):
    """Write a config of Fast R-CNN that reads these files."""

    def write(train=proposals.folder / "train.pkl", val=proposals.folder / "val.pkl"):
        text = FAST.replace("{root}", str(root))
        return write_config("fast", text.replace("{train}", str(train)).replace("{val}", str(val)))

    return write


# ------------------------------------------------------------------------------------- the files


def test_every_photo_is_there_also_without_an_object(proposals):
    for split, count in {"train": TRAIN, "val": VAL}.items():
        found = load_proposals(proposals.folder / f"{split}.pkl")
        assert list(found) == [f"images/{i:06d}.jpg" for i in range(1, count + 1)]
        for entry in found.values():
            assert 0 < len(entry.boxes) <= 200
            assert (entry.boxes >= 0).all() and (entry.boxes <= [96, 64, 96, 64]).all()
            assert (np.diff(entry.scores) <= 0).all()  # best first
    assert len(load_proposals(proposals.folder / "train.pkl")[EMPTY].boxes) > 0


def test_the_numbers_are_those_of_mmdets_own_dump(run_tool, write_config, rpn, proposals, tmp_path):
    text = DUMP.replace("{rpn}", str(rpn.config)).replace("{out}", str(tmp_path))
    config = write_config("dump", text)
    done = run_tool("test", config, rpn.checkpoint, "--work-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "proposals.pkl").open("rb") as file:
        theirs = pickle.load(file)
    with (proposals.folder / "val.pkl").open("rb") as file:
        ours = pickle.load(file)
    assert list(ours) == list(theirs) and len(ours) == VAL
    for key, entry in theirs.items():
        assert type(ours[key]) is type(entry)
        assert len(entry) > 100
        for name in ("bboxes", "scores"):
            assert ours[key][name].dtype == entry[name].dtype
            np.testing.assert_allclose(ours[key][name], entry[name], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(
            load_proposals(tmp_path / "proposals.pkl")[key].boxes, entry.bboxes
        )


def test_recall_is_that_of_the_validation(proposals, rpn):
    series = read_scalars(rpn.work_dir)
    assert list(proposals.recall) == [
        f"AR{size}@{count}"
        for size, count in [
            ("", 100),
            ("", 300),
            ("", 1000),
            ("_s", 1000),
            ("_m", 1000),
            ("_l", 1000),
        ]
    ]
    for name, value in proposals.recall.items():
        assert value == pytest.approx(series[f"coco/{name}"][-1][1], abs=0.0011)  # 3 digits


def test_proposals_move_with_the_objects(proposals, root):
    """Whatever the pipeline does to the photo, it does to both kinds of boxes."""
    from mmdet.datasets import transforms  # noqa: F401 (registers)
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope

    steps = [
        {"type": "RandomResize", "scale": (96, 64), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    boxes = np.array([[3, 4, 30, 40], [10, 0, 96, 64]], np.float32)
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(
            [{"type": "LoadImageFromFile"}, {"type": "LoadProposals"}]
            + [{"type": "ProposalBroadcaster", "transforms": steps}]
        )
    random.seed(0)
    np.random.seed(0)
    seen = set()
    for _ in range(8):
        data = {"img_path": str(root / "val/images/000001.jpg"), "gt_bboxes": boxes.copy()}
        done = pipeline(data | {"proposals": {"bboxes": boxes.copy()}})
        np.testing.assert_array_equal(done["proposals"], done["gt_bboxes"])
        seen.add(bool(done["flip"]))
        assert not np.allclose(done["proposals"], boxes)
    assert seen == {True, False}


# --------------------------------------------------------------------------------- the whole way


def test_fast_rcnn_trains_and_evaluates_on_the_files(run_tool, fast, tmp_path):
    done = run_tool("train", fast(), "--work-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    series = read_scalars(tmp_path)
    assert [step for step, _ in series["loss"]] == [1, 2]
    assert all(np.isfinite(value) for _, value in series["loss"])
    assert [step for step, _ in series["coco/bbox_mAP"]] == [2]
    assert (tmp_path / "iter_2.pth").is_file()


@pytest.mark.parametrize("data", ["shapes", "clothing"])
def test_one_folder_is_the_recipes_option(monkeypatch, tmp_path, data):
    (config,) = (PROJECT / "configs/detection").glob(f"fast-rcnn_lite0_*_{data}-*.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROPOSALS_ROOT", "some/where")  # mmdet would look for it in data_root
    cfg = load_config(str(config))
    for split, name in {"train": "train", "val": "val", "test": "val"}.items():
        file = cfg[f"{split}_dataloader"].dataset.proposal_file
        assert file == str(tmp_path / f"some/where/{name}.pkl")


# ------------------------------------------------------------------------------- refused in time

# What is done to the entries of a file, or to its bytes, and what the user is told.
WRONG = {
    "other photos of the same names": (lambda own, other: dict(list(other.items())[:VAL]), "split"),
    "another split": (lambda own, other: other, "without a photo"),
    "filtered": (lambda own, other: dict(list(own.items())[1:]), "images/000001.jpg"),
    "moved": (lambda own, other: {f"x{k}": v for k, v in own.items()}, "moved"),
    "no boxes": (lambda own, other: {k: v[:0] for k, v in own.items()}, "without a single box"),
    "no entries": (lambda own, other: {}, "without an entry"),
    "mmdet 2's": (lambda own, other: [v.bboxes for v in own.values()], "mmdet 2"),
    "truncated": (lambda own, other: pickle.dumps(own)[:-100], "truncated"),
    "no pickle": (lambda own, other: b"hello", "cannot be read"),
}


@pytest.fixture(params=WRONG)
def wrong(request, proposals, tmp_path):
    """A wrong file for the validation split, and the reason to be told."""
    own, other = (
        pickle.loads((proposals.folder / f"{split}.pkl").read_bytes()) for split in ("val", "train")
    )
    change, reason = WRONG[request.param]
    content = change(own, other)
    path = tmp_path / "wrong.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return SimpleNamespace(path=path, reason=reason)


def test_training_refuses_a_wrong_file(call_tool, assert_refused, fast, wrong, tmp_path):
    done = call_tool("train", fast(val=wrong.path), "--work-dir", tmp_path / "work")
    assert_refused(done, "wrong.pkl", wrong.reason)
    assert not (tmp_path / "work").exists()


def test_testing_refuses_it_too(call_tool, assert_refused, fast, rpn, proposals, tmp_path):
    config = fast(val=proposals.folder / "train.pkl")
    done = call_tool("test", config, rpn.checkpoint, "--work-dir", tmp_path / "work")
    assert_refused(done, "train.pkl", "without a photo")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("train", "reason"), [("val", "without an entry"), ("none", "no such file")]
)
def test_training_refuses_a_wrong_file_for_its_own_split(
    call_tool, assert_refused, fast, proposals, tmp_path, train, reason
):
    done = call_tool("train", fast(train=proposals.folder / f"{train}.pkl"), "--work-dir", tmp_path)
    assert_refused(done, f"{train}.pkl", reason)


@pytest.mark.parametrize("wrapper", ["RepeatDataset", "ConcatDataset"])
def test_wrapped_data_sets_are_checked(call_tool, assert_refused, fast, write_config, wrapper):
    """A missing file, too, is told before training."""
    inner = load_config(str(fast())).train_dataloader.dataset.to_dict() | {"proposal_file": None}
    wrapped = {
        "RepeatDataset": {"dataset": inner, "times": 2},
        "ConcatDataset": {"datasets": [inner]},
    }
    text = f"train_dataloader = dict(dataset=dict(_delete_=True, type={wrapper!r}, "
    text += f"**{wrapped[wrapper]!r}))"
    config = write_config("wrapped", f"_base_ = {str(fast())!r}\n{text}")
    done = call_tool("train", config, "--work-dir", "work")
    assert_refused(done, "train_dataloader", "proposal_file")


def test_mmdets_own_config_is_checked(call_tool, assert_refused, root, wrong, tmp_path):
    options = {
        "val_dataloader.dataset.data_root": f"{root}/",
        "val_dataloader.dataset.ann_file": "annotations/instances_val.json",
        "val_dataloader.dataset.data_prefix.img": "val/images/",
        "val_dataloader.dataset.proposal_file": wrong.path,
        "train_dataloader": None,
    }
    options = [f"{name}={value}" for name, value in options.items()]
    config = "mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py"
    arguments = [config, "--no-check", "--work-dir", tmp_path / "work"]  # the classes are COCO's
    done = call_tool("train", *arguments, "--cfg-options", *options)
    assert_refused(done, "wrong.pkl", wrong.reason)


# ------------------------------------------------------------------- nothing wrong is ever written


def refuses(rpn, out, *words, config=None, error=ValueError):
    rpn = SimpleNamespace(config=config or rpn.config, checkpoint=rpn.checkpoint)
    with pytest.raises(error) as raised:
        make(rpn, out)
    for word in words:
        assert word in str(raised.value)
    assert not out.parent.exists() or not list(out.parent.glob(f"*{out.name}*"))


@pytest.fixture
def moved_root(write_config, rpn, root, tmp_path):
    """A copy of the scenes that may be spoilt, and the RPN's config for it."""
    copy = tmp_path / "shapes"
    shutil.copytree(root, copy)
    config = write_config("rpn", RPN.replace("{root}", str(copy)))
    return SimpleNamespace(root=copy, config=config, photo=copy / "val/images/000002.jpg")


def test_missing_photos_are_named(rpn, moved_root, tmp_path):
    moved_root.photo.unlink()
    words = "1 photos", str(moved_root.photo)
    refuses(rpn, tmp_path / "out/p.pkl", *words, config=moved_root.config, error=FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"no photo"])
def test_an_unreadable_photo_is_named(rpn, moved_root, tmp_path, content):
    moved_root.photo.write_bytes(content)
    refuses(rpn, tmp_path / "out/p.pkl", "cannot be read", config=moved_root.config)


def test_photos_of_one_name_are_refused(rpn, moved_root, tmp_path):
    twin = moved_root.root / "val/images/images/000001.jpg"
    twin.parent.mkdir()
    shutil.copy(moved_root.photo, twin)
    file = moved_root.root / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = "images/000001.jpg"
    file.write_text(json.dumps(content))
    refuses(rpn, tmp_path / "out/p.pkl", "images/000001.jpg", "several", config=moved_root.config)


def test_an_rpn_that_diverged_is_refused(rpn, tmp_path):
    content = torch.load(rpn.checkpoint, weights_only=False)
    content["state_dict"]["bbox_head.rpn_reg.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pth")
    rpn = SimpleNamespace(config=rpn.config, checkpoint=tmp_path / "nan.pth")
    refuses(rpn, tmp_path / "out/p.pkl", "3 photos", "without a single box")


def test_a_file_that_was_there_stays_when_the_run_fails(rpn, moved_root, tmp_path):
    out = tmp_path / "p.pkl"
    out.write_bytes(b"old")
    moved_root.photo.write_bytes(b"no photo")
    rpn = SimpleNamespace(config=moved_root.config, checkpoint=rpn.checkpoint)
    with pytest.raises(ValueError, match="cannot be read"):
        make(rpn, out)
    unchanged = out.read_bytes() == b"old"
    assert unchanged
    assert not list(tmp_path.glob(".p.*"))


# -------------------------------------------------------------------------------- the tool itself


def test_the_tool_writes_the_file_and_says_the_recall(call_tool, rpn, proposals, tmp_path):
    done = call_tool("make_proposals", rpn.config, rpn.checkpoint, "--out", tmp_path / "p.pkl")
    assert done.returncode == 0, done.stderr
    recall = "  ".join(f"{name} {value:.3f}" for name, value in proposals.recall.items())
    assert recall in done.stdout and str(tmp_path / "p.pkl") in done.stdout
    assert "photos" in done.stderr and "100%" in done.stderr  # the progress bar
    assert "loading annotations" not in done.stdout
    theirs = load_proposals(proposals.folder / "val.pkl")
    for key, entry in load_proposals(tmp_path / "p.pkl").items():
        np.testing.assert_allclose(entry.boxes, theirs[key].boxes, rtol=0, atol=1e-4)
        assert entry.photo_bytes == theirs[key].photo_bytes > 0


def test_the_tool_refuses_in_one_line(
    call_tool, assert_refused, rpn, fast, evil_checkpoint, tmp_path
):
    def run(config, checkpoint, *options, out="p.pkl"):
        return call_tool("make_proposals", config, checkpoint, "--out", tmp_path / out, *options)

    assert_refused(run(fast(), rpn.checkpoint), "another model")
    assert_refused(run(rpn.config, tmp_path / "no.pth"), "no.pth")
    assert_refused(run(rpn.config, evil_checkpoint), "evil.pth")
    assert_refused(run(rpn.config, rpn.checkpoint, out="p.json"), "p.json", ".pkl")
    assert_refused(run("no.py", rpn.checkpoint), "no.py")
    demo = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
    assert_refused(run(demo, rpn.checkpoint), "mmdet")
    assert_refused(run(rpn.config, rpn.checkpoint, "--device", "nonsense"), "nonsense")
    assert not (tmp_path / "p.pkl").exists()


def test_another_detector_gives_no_proposals(fast, tmp_path):
    from mmengine.registry import MODELS, DefaultScope

    from fpn_neck.mm.det.predictor import load_rpn

    cfg = load_config(str(fast()))
    with DefaultScope.overwrite_default_scope("mmdet"):
        torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / "fast.pth")
    with pytest.raises(ValueError, match="FastRCNN.*RPN"):
        load_rpn(cfg, str(tmp_path / "fast.pth"))
