"""Counts the cases, and leaves the fuzz tests out where hypothesis is not installed."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.project import PROJECT

collect_ignore_glob = [] if find_spec("hypothesis") else ["test_*.py"]

CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[128] * 3, std=[64] * 3, size=(32, 40), pad_val=0),
    backbone=dict(type='ResNet', depth=18, base_channels=4),
    neck=dict(type='fpn_neck.FPN', in_channels=[4, 8, 16, 32], out_channels=4),
    decode_head=dict(
        type='fpn_neck.FPNHead', in_channels=[4] * 4, in_index=[0, 1, 2, 3], channels=4,
        feature_strides=[4, 8, 16, 32], num_classes=3, norm_cfg=dict(type='BN')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(40, 32), keep_ratio=True),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=test_pipeline))
"""


@pytest.fixture
def fuzz(record_property):
    """`fuzzing.search` whose counts go into the report; both answers must have come up."""
    from helpers.fuzzing import REFUSED, RIGHT, search

    def run(examples, cases, check):
        answers = search(examples, cases, check)
        record_property("fuzz", dict(answers))
        assert answers.total() >= examples
        assert min(answers[RIGHT], answers[REFUSED]) >= 0.02 * examples, answers

    return run


def pytest_terminal_summary(terminalreporter):
    lines = [
        f"{report.nodeid}: {', '.join(f'{n} {answer}' for answer, n in found.items())}"
        for report in terminalreporter.getreports("passed")
        for name, found in report.user_properties
        if name == "fuzz"
    ]
    if lines:
        terminalreporter.section("fuzz: number of cases")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The demo's data set, small."""
    pytest.importorskip("pycocotools")
    from fpn_neck.datasets.shapes.write import write_shapes

    root = write_shapes(tmp_path / "shapes", train=2, val=1, size=(64, 96), workers=1)
    monkeypatch.setenv("SHAPES_ROOT", str(root))
    return root


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """A tiny model with random weights: its config and its checkpoint."""
    pytest.importorskip("mmseg")
    import torch
    from mmengine.config import Config

    import fpn_neck.mm.registry  # noqa: F401 (lets mmseg.models be imported)

    folder = tmp_path_factory.mktemp("segmenter")
    config, checkpoint = folder / "tiny.py", folder / "tiny.pth"
    config.write_text(CONFIG)
    from mmseg.apis import init_model

    model = init_model(Config.fromfile(config), device="cpu")
    meta = {"dataset_meta": {"classes": list("abc"), "palette": [[0, 0, 0], [9, 9, 9], [255] * 3]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
    return SimpleNamespace(config=config, checkpoint=checkpoint)


def peak_of(pid):
    """Bytes; 0 where /proc isn't. (The usage that wait4 gives begins with the parent's memory.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool in a process of its own; adds the seconds it took and its memory in bytes."""

    def run(tool, *arguments, seconds):
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENCV_LOG_LEVEL": "SILENT"}
        command = [sys.executable, str(PROJECT / f"tools/{tool}.py"), *map(str, arguments)]
        out, err = tmp_path / "stdout", tmp_path / "stderr"
        start = time.monotonic()
        with out.open("w") as stdout, err.open("w") as stderr:
            process, memory = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env), 0
            while process.poll() is None:
                memory = max(memory, peak_of(process.pid))
                if time.monotonic() - start > seconds:
                    process.kill()
                    process.wait()
                    raise AssertionError(f"{tool} took more than {seconds} s: {err.read_text()}")
                time.sleep(0.05)
        return SimpleNamespace(
            returncode=process.returncode,
            stdout=out.read_text(errors="replace"),
            stderr=err.read_text(errors="replace"),
            memory=memory,
        )

    return run
