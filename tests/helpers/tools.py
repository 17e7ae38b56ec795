"""Small generated scenes, a config that trains on them in seconds, and ways to call the tools."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.forks import SECONDS, Forks, can_fork
from helpers.project import PROJECT

# Four steps on scenes of 64 x 96 px; photos of any size are fitted into that for testing.
SEGMENTATION = """
_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(96, 64), keep_ratio=True)],
        [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')]])]
model = dict(data_preprocessor=dict(size=(64, 96)), backbone=dict(checkpoint=None))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
randomness = dict(seed=0)
"""


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    pytest.importorskip("pycocotools")
    from fpn_neck.datasets.shapes.write import write_shapes

    root = tmp_path_factory.mktemp("data") / "shapes"
    return write_shapes(root, train=10, val=4, size=(64, 96), workers=1)


@pytest.fixture(scope="session")
def write_config(tmp_path_factory):
    """Write a config of this text, in which {configs} is the folder of the recipes."""

    def write(name: str, text: str) -> Path:
        path = tmp_path_factory.mktemp("configs") / f"{name}.py"
        path.write_text(text.replace("{configs}", str(PROJECT / "configs")))
        return path

    return write


@pytest.fixture(scope="session")
def tool_environment(shapes_root):
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "SHAPES_ROOT": str(shapes_root),
        "HF_HUB_OFFLINE": "1",  # nothing here may need the network
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
    }
    env.pop("PYTEST_CURRENT_TEST", None)
    return env


@pytest.fixture(scope="session")
def run_words(tool_environment, tmp_path_factory):
    """Run ``python WORDS`` by `Forks`, or by a new interpreter where `can_fork` is false."""
    forks = Forks(tool_environment) if can_fork() else None

    def run(*words, cwd: Path) -> subprocess.CompletedProcess:
        words = list(map(str, words))
        if forks:
            return forks.run(words, cwd, tmp_path_factory.mktemp("output"))
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env=tool_environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    yield run
    if forks:
        forks.close()


@pytest.fixture(scope="session")
def run_tool(run_words):
    """Run a tool as the command line does; returns the finished process."""

    def run(tool: str, *arguments, cwd: Path) -> subprocess.CompletedProcess:
        return run_words(PROJECT / f"tools/{tool}.py", *arguments, cwd=cwd)

    return run


@pytest.fixture
def call_tool(monkeypatch, capsys):
    """Run a tool in this process: seconds faster, for what doesn't build a Runner."""

    def call(tool: str, *arguments):
        script = str(PROJECT / f"tools/{tool}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=out, stderr=err)

    return call


@pytest.fixture(scope="session")
def assert_refused():
    """Exit code 2 and one line on stderr that holds the words."""

    def check(done, *words: str) -> None:
        assert done.returncode == 2, done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0], (word, lines[0])

    return check


@pytest.fixture(scope="session")
def trained(run_tool, write_config, tmp_path_factory):
    """A segmenter after four steps: config, work dir, best checkpoint and the finished process."""
    for package in ("mmseg", "timm"):
        pytest.importorskip(package)
    config = write_config("tiny", SEGMENTATION)
    cwd = tmp_path_factory.mktemp("trained")
    done = run_tool("train", config, "--work-dir", cwd / "work", cwd=cwd)
    assert done.returncode == 0, done.stderr
    work_dir = cwd / "work"
    last = Path((work_dir / "last_checkpoint").read_text().strip())
    return SimpleNamespace(config=config, work_dir=work_dir, checkpoint=last, done=done)


@pytest.fixture(scope="session")
def varied(trained, tmp_path_factory):
    """The trained weights with a random classifier: its label maps hold many labels.

    After four steps the classifier itself may answer with one label everywhere, and comparing
    such maps would prove little. The bias makes all classes equal on average, over a random photo.
    """
    import torch

    import fpn_neck
    from fpn_neck.weights.checkpoints import load_checkpoint

    content = load_checkpoint(trained.checkpoint)
    content = {name: content[name] for name in ("meta", "state_dict")}
    predictor, seen = fpn_neck.load(trained.checkpoint, trained.config, "cpu"), []
    classifier = predictor.model.decode_head.conv_seg
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    predictor(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    weight, bias = (content["state_dict"][f"decode_head.conv_seg.{k}"] for k in ("weight", "bias"))
    weight.normal_(generator=torch.Generator().manual_seed(0))
    bias.copy_(-weight[..., 0, 0] @ seen[0].mean((0, 2, 3)))
    path = tmp_path_factory.mktemp("varied") / "varied.pth"
    torch.save(content, path)
    return path


class Evil:
    """A pickle that would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def evil_checkpoint(tmp_path):
    """A checkpoint file that would create ``executed`` beside itself."""
    import torch

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": Evil(tmp_path / "executed")}, path)
    return path
