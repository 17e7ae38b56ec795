"""tools/train.py and tools/test.py, from the command line to the files they leave."""

import json
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmseg", "mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)

from fpn_neck.datasets.shapes.write import CLASSES  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.mm.prepare import mixed_precision, prepare_testing, prepare_training  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

DEMO = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
RPN = PROJECT / "configs/detection/rpn_r50_fpn_1x_coco.py"


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def refused_late(done, *words):
    """Exit code 2 and a last line for the user, after what a Runner prints when it is built."""
    assert "Traceback" not in done.stderr
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def steps(series, name="loss"):
    return [step for step, _ in series[name]]


def results_of(work_dir):
    """The metrics that tools/test.py wrote."""
    (file,) = (f for f in work_dir.glob("*/*.json"))
    return json.loads(file.read_text())


# ----------------------------------------------------------------------------------- training


def test_training_leaves_its_checkpoints(trained):
    work_dir = trained.work_dir
    assert trained.checkpoint == work_dir / "iter_4.pth"
    assert [p.name for p in work_dir.glob("iter_*.pth")] == ["iter_4.pth"]
    content = load_checkpoint(trained.checkpoint)  # weights_only
    assert content["meta"]["iter"] == 4
    assert tuple(content["meta"]["dataset_meta"]["classes"]) == CLASSES
    assert all(v.isfinite().all() for v in content["state_dict"].values())

    series = read_scalars(work_dir)
    best = max(series["mIoU_occurring"], key=lambda point: point[1])[0]
    assert [p.name for p in work_dir.glob("best_*")] == [f"best_mIoU_occurring_iter_{best}.pth"]


@pytest.mark.slow
def test_training_in_bfloat16(run_tool, trained, tmp_path):
    """Beside the same run in float32."""
    work = tmp_path / "work"
    options = ["--amp", "bfloat16", "--work-dir", work]
    succeeded(run_tool("train", trained.config, *options, cwd=tmp_path))
    losses = zip(*(read_scalars(w)["loss"] for w in (work, trained.work_dir)), strict=True)
    for (_, ours), (_, theirs) in losses:
        assert ours != theirs and math.isclose(ours, theirs, rel_tol=0.02)
    weights = load_checkpoint(work / "iter_4.pth")["state_dict"].values()
    assert {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}


def test_training_leaves_its_scalars(trained):
    series = read_scalars(trained.work_dir)
    for name in ("loss", "decode.loss_ce", "decode.loss_dice", "lr", "grad_norm"):
        assert steps(series, name) == [1, 2, 3, 4]
        assert all(math.isfinite(v) for _, v in series[name])
    for name in ("mIoU", "mIoU_occurring", "mIoU_foreground", "aAcc"):
        assert steps(series, name) == [2, 4]
        assert all(0 <= v <= 100 for _, v in series[name])


def test_training_leaves_pictures_curves_and_its_config(trained):
    names = sorted(p.name for p in (trained.work_dir / "pictures").iterdir())
    assert names == [f"{i:06d}.png" for i in range(1, 5)]
    for picture in [*(trained.work_dir / "pictures").iterdir(), trained.work_dir / "curves.png"]:
        assert min(Image.open(picture).size) >= 64
    assert (trained.work_dir / "tiny.py").is_file()
    for name in ("curves.png", "pictures", "best_mIoU_occurring_iter_"):
        assert name in trained.done.stdout  # the user is told where everything is


@pytest.mark.parametrize("explicit", [False, True])
def test_resuming_goes_on_with_the_next_step(trained, run_tool, tmp_path, explicit):
    work_dir = tmp_path / "work"
    resume = ["--resume"]
    if explicit:  # into a new work dir
        resume.append(trained.checkpoint)
    else:
        shutil.copytree(trained.work_dir, work_dir)
        (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_4.pth"))
    # The best checkpoint so far may be replaced, and other tests need it.
    options = ["--cfg-options", "train_cfg.max_iters=6", "default_hooks.checkpoint.save_best=None"]
    done = run_tool(
        "train", trained.config, "--work-dir", work_dir, *resume, *options, cwd=tmp_path
    )
    succeeded(done)
    first = [] if explicit else [1, 2, 3, 4]
    series = read_scalars(work_dir)
    assert steps(series) == [*first, 5, 6]
    if not explicit:
        assert series["loss"][:4] == read_scalars(trained.work_dir)["loss"]
    content = load_checkpoint(work_dir / "iter_6.pth")
    assert content["meta"]["iter"] == 6
    # The optimizer went on too: Adam counts its own steps.
    taken = {int(s["step"]) for s in content["optimizer"]["state"].values()}
    assert taken == {6}


def test_resuming_from_a_missing_checkpoint_is_refused(trained, run_tool, tmp_path):
    arguments = [trained.config, "--work-dir", tmp_path, "--resume", tmp_path / "no.pth"]
    refused_late(run_tool("train", *arguments, cwd=tmp_path), "no.pth")


# ------------------------------------------------------------------------------------- testing


@pytest.fixture(scope="module")
def tested(trained, varied, run_tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    outputs = ["--out", folder / "labels", "--show-dir", folder / "painted"]
    arguments = [trained.config, varied, "--work-dir", folder / "work", *outputs]
    succeeded(run_tool("test", *arguments, cwd=folder))
    return folder


@pytest.fixture(scope="module")
def logits(trained, varied):
    """Photo, uint8 (H, W, 3) in BGR -> logits (K, H, W), by mmseg alone."""
    from mmseg.apis import inference_model, init_model

    model = init_model(str(trained.config), str(varied), device="cpu")
    model.test_cfg.keep_logits = True
    return lambda photo: inference_model(model, photo).seg_logits.data


def photos(shapes_root):
    """Name and pixels of every photo for validation."""
    cv2 = pytest.importorskip("cv2")
    paths = sorted((shapes_root / "val/images").iterdir())
    return {path.stem: cv2.imread(str(path)) for path in paths}


def read_labels(folder, name):
    return np.asarray(Image.open(folder / f"{name}.png"))


def test_label_files_are_the_models_argmax(tested, logits, shapes_root):
    assert len(list((tested / "labels").iterdir())) == 4
    for name, photo in photos(shapes_root).items():
        expected = logits(photo).argmax(0).numpy()
        labels = read_labels(tested / "labels", name)
        assert labels.shape == (64, 96) and len(np.unique(labels)) > 1
        assert (labels == expected).mean() > 0.999  # a tie may fall either way


def test_the_metrics_are_those_of_the_label_files(tested, shapes_root):
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for name in photos(shapes_root):
        truth = read_labels(shapes_root / "val/labels", name)
        np.add.at(matrix, (truth, read_labels(tested / "labels", name)), 1)
    hit, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    occurs = matrix.sum(1) > 0
    iou = 100 * hit[occurs] / union[occurs]
    found = results_of(tested / "work")
    assert found["mIoU_occurring"] == pytest.approx(iou.mean(), abs=0.006)
    assert found["aAcc"] == pytest.approx(100 * hit.sum() / matrix.sum(), abs=0.006)
    assert found["num_occurring"] == occurs.sum()


def test_the_show_dir_holds_every_photo(tested):
    painted = [p for p in (tested / "painted").rglob("*") if p.suffix in {".png", ".jpg"}]
    assert len(painted) == 4


@pytest.mark.parametrize("settings", ["", "resume = True\ncustom_hooks = [dict(type='EMAHook')]"])
def test_test_time_augmentation_averages_both_directions(
    trained, varied, run_tool, logits, shapes_root, tmp_path, settings
):
    """Also by the config of a resumed run that averages weights: it tests the average."""
    import torch

    from fpn_neck.weights.checkpoints import load_checkpoint

    content = load_checkpoint(varied)
    last = {f"module.{k}": torch.randn_like(v.float()) for k, v in content["state_dict"].items()}
    torch.save(content | {"ema_state_dict": last}, tmp_path / "averaged.pth")
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(trained.config)!r}\n{settings}\n")
    arguments = [config, tmp_path / "averaged.pth", "--work-dir", tmp_path / "work"]
    arguments += ["--tta", "--out", tmp_path / "labels"]
    succeeded(run_tool("test", *arguments, cwd=tmp_path))
    for name, photo in photos(shapes_root).items():
        turned = np.ascontiguousarray(photo[:, ::-1])
        there, back = logits(photo).softmax(0), logits(turned).softmax(0).flip(-1)
        labels = read_labels(tmp_path / "labels", name)
        assert (labels == (there + back).argmax(0).numpy()).mean() > 0.999
    assert 0 <= results_of(tmp_path / "work")["mIoU_occurring"] <= 100


def test_tta_without_its_pipeline_is_refused(call_tool, assert_refused, trained):
    done = call_tool("test", DEMO, trained.checkpoint, "--tta")
    assert_refused(done, "tta_pipeline")


@pytest.mark.parametrize("config", [DEMO, RPN], ids=["mmseg", "mmdet"])
def test_a_missing_checkpoint_is_refused(call_tool, assert_refused, config, tmp_path):
    assert_refused(call_tool("test", config, tmp_path / "no.pth"), "no.pth")


def test_detections_go_into_a_pickle(call_tool, assert_refused, trained):
    done = call_tool("test", RPN, trained.checkpoint, "--out", "folder")
    assert_refused(done, "folder", ".pkl")


def test_a_pickle_that_would_run_code_does_not(trained, run_tool, evil_checkpoint):
    folder = evil_checkpoint.parent
    arguments = [trained.config, evil_checkpoint, "--work-dir", folder / "work"]
    done = run_tool("test", *arguments, cwd=folder)
    assert not (folder / "executed").exists()
    refused_late(done, "evil.pth")


def test_a_truncated_checkpoint_is_refused(trained, run_tool, tmp_path):
    whole = trained.checkpoint.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    arguments = [trained.config, tmp_path / "half.pth", "--work-dir", tmp_path / "work"]
    refused_late(run_tool("test", *arguments, cwd=tmp_path), "half.pth")


# --------------------------------------------------------------------------- stock recipes, ours

RPN_TEXT = """
_base_ = '{configs}/detection/rpn_r50_fpn_1x_coco.py'
data_root = '{root}/'
metainfo = dict(classes={classes})
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
model = dict(backbone=dict(init_cfg=None))
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root=data_root, ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/images/'), metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root=data_root, ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/images/'), metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)  # the ten scenes, one a step
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
"""

SEM_FPN_TEXT = """
_base_ = '{configs}/segmentation/fpn_r50_4xb4-160k_ade20k-512x512.py'
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
model = dict(
    pretrained=None, data_preprocessor=dict(size=(64, 96)), decode_head=dict(num_classes=7))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        _delete_=True, type='fpn_neck.ShapesDataset', data_root='{root}', split='train',
        pipeline=pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        _delete_=True, type='fpn_neck.ShapesDataset', data_root='{root}', split='val',
        pipeline=pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=10))
randomness = dict(seed=0)
"""


def filled(text, shapes_root):
    return text.replace("{root}", str(shapes_root)).replace("{classes}", repr(CLASSES[1:]))


def ten_steps(series):
    assert steps(series) == list(range(1, 11))
    assert all(math.isfinite(v) for _, v in series["loss"])


@pytest.mark.slow
def test_mmdets_rpn_takes_ten_steps_and_is_tested(run_tool, write_config, shapes_root, tmp_path):
    config = write_config("tiny_rpn", filled(RPN_TEXT, shapes_root))
    work_dir = tmp_path / "train"
    succeeded(run_tool("train", config, "--work-dir", work_dir, cwd=tmp_path))
    ten_steps(read_scalars(work_dir))
    assert (work_dir / "curves.png").is_file()
    checkpoint = work_dir / "epoch_1.pth"
    assert load_checkpoint(checkpoint)["meta"]["iter"] == 10

    outputs = ["--out", tmp_path / "found.pkl", "--show-dir", tmp_path / "painted"]
    arguments = [config, checkpoint, "--work-dir", tmp_path / "test", *outputs]
    succeeded(run_tool("test", *arguments, cwd=tmp_path))
    recalls = {k: v for k, v in results_of(tmp_path / "test").items() if "AR@" in k}
    assert recalls and all(v == -1 or 0 <= v <= 1 for v in recalls.values())  # -1: none so large
    trained = read_scalars(work_dir)
    assert all(v == pytest.approx(trained[k][-1][1], abs=0.002) for k, v in recalls.items())
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert len(found) == 4
    assert all(f["pred_instances"]["bboxes"].shape[1] == 4 for f in found)
    assert len([p for p in (tmp_path / "painted").rglob("*") if p.is_file()]) >= 4


@pytest.mark.slow
def test_mmsegs_semantic_fpn_takes_ten_steps_and_is_tested(
    run_tool, call_tool, write_config, shapes_root, tmp_path
):
    """Its SyncBN works on one CPU, without a process group."""
    config = write_config("tiny_sem_fpn", filled(SEM_FPN_TEXT, shapes_root))
    work_dir = tmp_path / "train"
    succeeded(run_tool("train", config, "--work-dir", work_dir, cwd=tmp_path))
    series = read_scalars(work_dir)
    ten_steps(series)
    checkpoint = work_dir / "iter_10.pth"
    arguments = [config, checkpoint, "--work-dir", tmp_path / "test", "--out", tmp_path / "labels"]
    succeeded(run_tool("test", *arguments, cwd=tmp_path))
    found = results_of(tmp_path / "test")
    assert found["mIoU"] == pytest.approx(series["mIoU"][-1][1], abs=0.02)

    photo = shapes_root / "val/images/000001.jpg"
    succeeded(call_tool("predict", config, checkpoint, photo, "--out", tmp_path / "predicted"))
    a, b = (read_labels(tmp_path / d, "000001") for d in ("labels", "predicted/labels"))
    assert (a == b).mean() > 0.999


# --------------------------------------------------------------------- configs and other arguments


@pytest.mark.parametrize("tool", ["train", "test"])
def test_a_wrong_config_path_is_one_line(run_tool, assert_refused, tmp_path, tool):
    arguments = ["no/such.py"] + ["checkpoint.pth"] * (tool == "test")
    assert_refused(run_tool(tool, *arguments, cwd=tmp_path), "no/such.py", "package::path")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "text"), [("notes.txt", "hello"), ("broken.py", "a = (")])
def test_a_file_that_is_no_config_is_one_line(call_tool, assert_refused, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert_refused(call_tool("train", tmp_path / name), name)


@pytest.mark.parametrize(
    "name", ["mmdet::no/such.py", "nopackage::a/b.py", "mmdet::", "mmpose::a/b.py"]
)
def test_a_missing_config_of_a_package_is_one_line(call_tool, assert_refused, monkeypatch, name):
    """mmpose is not installed; naming it must not start an installation either."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert_refused(call_tool("train", name), name.split("::")[0])


def test_a_part_that_cannot_be_built_is_one_line(run_tool, trained, tmp_path):
    option = ["--cfg-options", "model.decode_head.type=Foo"]
    done = run_tool("train", trained.config, "--work-dir", tmp_path, *option, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error: config: model.decode_head (type 'Foo'): Foo is not in" in done.stderr
    assert "Traceback" not in done.stderr and "http" not in done.stderr


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_config_without_a_model_is_one_line(
    call_tool, assert_refused, trained, write_config, name
):
    config = write_config("empty", "")
    checkpoint = [trained.checkpoint] if name == "test" else []
    assert_refused(call_tool(name, config, *checkpoint), "config: model=None")


@pytest.fixture
def tool(monkeypatch):
    """The config that a tool makes of a command line."""
    import sys
    from importlib import import_module

    prepare = {"train": prepare_training, "test": prepare_testing}

    def load(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        return prepare[name](import_module(f"fpn_neck.cli.{name}").parse_args())

    return load


def test_work_dir_is_the_flags_then_the_configs_then_the_name(tool, write_config):
    text = f"_base_ = '{DEMO}'\nwork_dir = 'from/config'\n"
    with_dir = write_config("with_dir", text)
    for config, flag, expected in [
        (with_dir, "from/flag", "from/flag"),
        (DEMO, "from/flag", "from/flag"),
        (with_dir, None, "from/config"),
        (DEMO, None, f"work_dirs/{DEMO.stem}"),
        ("mmdet::rpn/rpn_r50_fpn_1x_coco.py", None, "work_dirs/rpn_r50_fpn_1x_coco"),
    ]:
        flags = ["--work-dir", flag] if flag else []
        assert tool("train", config, *flags).work_dir == expected


def test_options_override_the_config(tool):
    options = ["model.neck.out_channels=32", "model.decode_head.in_channels=[32,32,32,32]"]
    options += ["model.data_preprocessor.size=(64,96)", "optim_wrapper.optimizer.lr=0.5"]
    cfg = tool("train", DEMO, "--cfg-options", *options)
    assert cfg.model.neck.out_channels == 32
    assert list(cfg.model.decode_head.in_channels) == [32] * 4
    assert tuple(cfg.model.data_preprocessor.size) == (64, 96)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.optim_wrapper.optimizer.type == "AdamW"  # the rest stays


def test_training_flags_change_the_config(tool):
    plain = tool("train", DEMO)
    assert not plain.resume and plain.load_from is None and plain.launcher == "none"
    cfg = tool("train", DEMO, "--resume")
    assert cfg.resume is True and cfg.load_from is None
    cfg = tool("train", DEMO, "--resume", "some.pth")
    assert cfg.resume is True and cfg.load_from == "some.pth"
    cfg = tool("train", DEMO, "--tensorboard", "--launcher", "pytorch")
    types = [b["type"] for b in cfg.visualizer.vis_backends]
    assert types == ["LocalVisBackend", "TensorboardVisBackend"]
    assert cfg.launcher == "pytorch"
    cfg = tool("train", RPN, "--auto-scale-lr")
    assert cfg.auto_scale_lr.enable is True and cfg.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize("config", [DEMO, RPN], ids=["has one", "has none"])
def test_every_training_has_one_summary(tool, config):
    names = [hook["type"] for hook in tool("train", config).custom_hooks]
    assert names.count("fpn_neck.SummaryHook") == 1


def test_automatic_learning_rate_needs_a_base_batch_size(tool):
    with pytest.raises(ValueError, match="base_batch_size"):
        tool("train", DEMO, "--auto-scale-lr")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, it is allowed")
@pytest.mark.parametrize("arguments", [["--amp"], ["--amp", "float16"]], ids=" ".join)
def test_float16_needs_a_gpu(call_tool, assert_refused, arguments):
    assert_refused(call_tool("train", DEMO, *arguments), "--amp float16", "GPU", "--amp bfloat16")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", [DEMO, RPN], ids=["mmseg", "mmdet"])
def test_float16_on_a_gpu(tool, config):
    plain = tool("train", config).optim_wrapper
    wrapper = tool("train", config, "--amp").optim_wrapper
    assert wrapper == mixed_precision(plain, "float16")


def test_float16_scales_the_loss():
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": None}
    scaled = wrapper | {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic"}
    assert mixed_precision(wrapper, True) == mixed_precision(wrapper, "float16") == scaled
    assert mixed_precision(scaled | {"loss_scale": 512.0}, True)["loss_scale"] == 512.0


@pytest.mark.parametrize("config", [DEMO, RPN], ids=["mmseg", "mmdet"])
def test_bfloat16_scales_no_loss(tool, config):
    plain = tool("train", config).optim_wrapper
    wrapper = tool("train", config, "--amp", "bfloat16").optim_wrapper
    assert wrapper == plain | {"type": "fpn_neck.BFloat16OptimWrapper"}
    written = ["--cfg-options", "optim_wrapper.dtype=bfloat16", "optim_wrapper.loss_scale=512.0"]
    assert tool("train", config, "--amp", *written).optim_wrapper == wrapper


def test_another_precision_is_refused_with_those_that_exist(call_tool):
    done = call_tool("train", DEMO, "--amp", "float8")
    assert done.returncode == 2 and "float16" in done.stderr and "bfloat16" in done.stderr


def test_mmdets_output_is_added_to_the_metrics(tool, trained):
    cfg = tool("test", RPN, trained.checkpoint, "--out", "found.pkl")
    assert [e.type for e in cfg.test_evaluator] == ["CocoMetric", "DumpDetResults"]
    assert cfg.test_evaluator[1].out_file_path == "found.pkl"
    assert cfg.load_from == str(trained.checkpoint)


@pytest.mark.parametrize("name", ["train", "test"])
def test_help_says_what_the_tool_takes(call_tool, name):
    done = call_tool(name, "--help")
    assert done.returncode == 0
    for flag in ("--work-dir", "--cfg-options", "--launcher"):
        assert flag in done.stdout
