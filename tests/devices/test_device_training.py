"""tools/train.py and tools/predict.py on a device: the loss of the CPU, a resumed run, labels."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.devices import CUDA, SLOW_ON_CPU
from helpers.tools import SEGMENTATION
from PIL import Image

for _package in ("mmseg", "timm", "pycocotools"):
    pytest.importorskip(_package)

KEEP = "default_hooks.checkpoint.max_keep_ckpts=2"
TOLERANCE = {"cpu": 1e-6, "cuda": 1e-2}  # of a resumed run's losses; AdamW magnifies rounding


@pytest.fixture
def on_device(device, monkeypatch):
    """The tools' processes find this device, and multiply in float32."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    if device == "cpu":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return device


@pytest.fixture
def train(on_device, run_tool, write_config, tmp_path):
    """Train four steps; returns the work dir, the losses by step and the last checkpoint."""
    config = write_config("tiny", SEGMENTATION)

    def run(name, *arguments):
        work_dir = tmp_path / name
        arguments = ["--work-dir", work_dir, *arguments, "--cfg-options", KEEP]
        done = run_tool("train", config, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (log,) = work_dir.glob("*/vis_data/scalars.json")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
        last = Path((work_dir / "last_checkpoint").read_text().strip())
        memory = max(row.get("memory", 0) for row in rows)
        return SimpleNamespace(
            config=config, work_dir=work_dir, losses=losses, last=last, memory=memory
        )

    return run


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_train_resume_and_predict(on_device, train, run_tool, shapes_root, tmp_path):
    straight = train("straight")
    assert list(straight.losses) == [1, 2, 3, 4]
    assert (straight.memory > 0) == (on_device == "cuda")  # MB of the GPU

    resumed = train("resumed", "--resume", straight.work_dir / "iter_2.pth")
    assert list(resumed.losses) == [3, 4]
    for step, loss in resumed.losses.items():
        assert loss == pytest.approx(straight.losses[step], rel=TOLERANCE[on_device])

    photos = sorted((shapes_root / "val/images").iterdir())
    labels = {}
    for device in dict.fromkeys(["cpu", on_device]):
        out = tmp_path / device
        arguments = [straight.config, straight.last, *photos, "--out", out, "--device", device]
        done = run_tool("predict", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        files = sorted((out / "labels").iterdir())
        labels[device] = np.stack([np.array(Image.open(file)) for file in files])
    assert labels[on_device].shape == (len(photos), 64, 96)
    assert (labels[on_device] != labels["cpu"]).mean() < 1e-3


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_the_first_losses_are_the_cpus(on_device, train, monkeypatch):
    """The same weights, photos and augmentations: they are made on the CPU."""
    found = train("found").losses
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    expected = train("expected").losses
    assert found[1] == pytest.approx(expected[1], rel=1e-4)
    assert found[4] == pytest.approx(expected[4], rel=2e-2)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_mixed_precision_begins_with_the_same_loss(train):
    found, expected = train("amp", "--amp").losses, train("float32").losses
    assert found[1] == pytest.approx(expected[1], rel=1e-2) and found[1] != expected[1]
    assert found[4] == pytest.approx(expected[4], rel=0.1)
