"""Memory of the real tools: large photos, validation beside training, batches that can't fit."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmseg", "timm", "pycocotools"):
    pytest.importorskip(_package)

from mmengine.config import Config  # noqa: E402

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
ABSURD = 20_000_000  # px: more than any address space holds


def assert_explained(line, *words):
    assert "out of memory" in line and "Traceback" not in line, line
    for word in words:
        assert word in line, line


# ------------------------------------------------------------------------- a batch that can't fit


def test_a_training_batch_that_cannot_fit_is_one_line(run_tool, trained, tmp_path):
    """In a run that goes on from a checkpoint, which is named and left alone."""
    shutil.copytree(trained.work_dir, tmp_path / "work")
    last = tmp_path / "work" / trained.checkpoint.name
    (tmp_path / "work/last_checkpoint").write_text(str(last))
    before = last.read_bytes()
    arguments = [trained.config, "--work-dir", tmp_path / "work", "--resume", "--cfg-options"]
    huge = f"model.data_preprocessor.size=({ABSURD},{ABSURD})"
    done = run_tool("train", *arguments, huge, "train_cfg.max_iters=6", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    facts = ("batch_size=2", f"size=({ABSURD}, {ABSURD})", "7 classes", "GB more")
    remedies = ("train_dataloader.batch_size", "loss_stride", f"checkpoint: {last}", "--resume")
    assert_explained(done.stderr.splitlines()[-1], "error: ", *facts, *remedies)
    assert "Traceback" not in done.stderr
    unchanged = last.read_bytes() == before  # outside of assert: pytest would explain all bytes
    assert unchanged


PADDED = f"model.data_preprocessor.test_cfg.size=({ABSURD},{ABSURD})"


def test_a_test_batch_that_cannot_fit_is_one_line(run_tool, trained, tmp_path):
    arguments = [trained.config, trained.checkpoint, "--work-dir", tmp_path, "--cfg-options"]
    done = run_tool("test", *arguments, PADDED, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert_explained(done.stderr.splitlines()[-1], "test_dataloader.batch_size", "test_cfg.tile")
    assert "Traceback" not in done.stderr


def test_a_photo_that_cannot_fit_is_one_line(call_tool, trained, varied, tmp_path):
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.png")
    arguments = [trained.config, varied, tmp_path / "photo.png", "--out", tmp_path / "out"]
    done = call_tool("predict", *arguments, "--cfg-options", PADDED)
    assert done.returncode == 1  # as of every photo that can't be done; others go on
    (line,) = [x for x in done.stderr.splitlines() if "photo.png" in x]
    assert_explained(line, "test_cfg.tile", "7 classes")


# ------------------------------------------------------------------------------- large photos

# Run a tool in a process of its own, which ends by saying what it took in kB.
MEASURED = """
import atexit, runpy, sys
status = lambda: open('/proc/self/status').read()
atexit.register(lambda: print('peak', status().split('VmHWM:')[1].split()[0]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
OF_59 = """
_base_ = '{configs}/segmentation/fpn_lite0_1xb16-2400_clothing-320x224.py'
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


@linux
@pytest.mark.slow
def test_a_photo_of_24_megapixels_takes_about_2_gb(write_config, tmp_path):
    """59 classes, at the photo's full size; the tool's whole process, imports included."""
    scene = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    scene = Image.fromarray(scene).resize((6000, 4000), Image.Resampling.BICUBIC)
    scene.save(tmp_path / "photo.jpg")
    config = write_config("of_59", OF_59)
    arguments = [config, checkpoint_of(config, tmp_path), tmp_path / "photo.jpg"]
    command = ["-c", MEASURED, PROJECT / "tools/predict.py", *arguments, "--out", tmp_path / "out"]
    done = run_with(command, PYTHONPATH=PROJECT)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "out/labels/photo.png"))
    assert labels.shape == (4000, 6000) and len(np.unique(labels)) > 5
    peak = int(done.stdout.split()[-1]) * 1024
    assert peak < 2.2e9, f"{peak / 1e9:.2f} GB"


def run_with(arguments, **variables):
    command = [sys.executable, *map(str, arguments)]
    env = os.environ | {name: str(value) for name, value in variables.items()}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)


def checkpoint_of(config, folder):
    """The config's model as it is built, with a classifier that finds many labels."""
    from mmseg.apis import init_model

    cfg = Config.fromfile(config)
    model = init_model(cfg, device="cpu")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    names = {
        "classes": [f"label {i}" for i in range(59)],
        "palette": [[i, 0, 0] for i in range(59)],
    }
    path = folder / "of_59.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": names}}, path)
    return path


# ------------------------------------------------------------------ validation beside training

PEAKS_HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class PeaksHook(Hook):
    def _say(self, part):
        status = open('/proc/self/status').read()
        print('peak of', part, status.split('VmHWM:')[1].split()[0], flush=True)
        open('/proc/self/clear_refs', 'w').write('5')
    def before_train(self, runner): self._say('start')
    def before_val(self, runner): self._say('training')
    def after_val(self, runner): self._say('validation')
"""
CROPS = """
_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'
custom_imports = dict(imports=['fpn_neck', 'peaks_hook'])
custom_hooks = [dict(type='PeaksHook'), dict(type='fpn_neck.PicturesHook', count=1)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(256, 320)),
    dict(type='PackSegInputs'),
]
model = dict(backbone=dict(checkpoint=None))
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
"""
DETECTOR = """
_base_ = '{configs}/detection/mask-rcnn_lite0_fpn_1xb4-600_shapes-256x320.py'
custom_imports = dict(imports=['fpn_neck', 'peaks_hook'])
custom_hooks = [dict(type='PeaksHook')]
model = dict(backbone=dict(checkpoint=None))
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "size", "photos"),
    [(CROPS, (512, 640), 8), (DETECTOR, (256, 320), 24)],
    ids=["segmenter, photos as large as a batch", "detector"],
)
def test_validation_needs_no_more_than_training(write_config, tmp_path, text, size, photos):
    from fpn_neck.datasets.shapes.write import write_shapes

    (tmp_path / "peaks_hook.py").write_text(PEAKS_HOOK)
    scenes = write_shapes(tmp_path / "shapes", train=4, val=photos, size=size, workers=1)
    config = write_config("peaks", text)
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    command = [PROJECT / "tools/train.py", config, "--no-check", "--work-dir", tmp_path / "work"]
    done = run_with(command, PYTHONPATH=path, SHAPES_ROOT=scenes)
    assert done.returncode == 0, done.stderr
    peaks = dict(re.findall(r"peak of (\w+) (\d+)", done.stdout))
    assert int(peaks["start"]) < int(peaks["training"])
    # 5 %: what training freed stays with the allocator, in pieces that don't fit all.
    assert int(peaks["validation"]) <= 1.05 * int(peaks["training"]), peaks
