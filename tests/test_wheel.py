"""The wheel works without the checkout: commands, configs, and the same files from the sdist."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers.project import PROJECT

CONFIG = "fpn_neck::segmentation/fpn_lite0_demo_shapes-256x320.py"
FILES = ("README.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.cfg")
BUILD = "import sys, setuptools.build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
SMALL = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2"]


def run(*command, cwd, code=0, **env):
    env = os.environ | {"PYTHONPATH": ""} | {name: str(value) for name, value in env.items()}
    words = [sys.executable, "-W", "ignore", *map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


CHECKOUT = re.compile(r"tools/\w+\.py|pip install -e|\bdocs/\w+\.md|\bmake (?:demo|test|docs)")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files that are packed, without git."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("source")
    for name in ("fpn_neck", "configs", "tools"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=leave)
    for name in FILES:
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    run("-c", BUILD, "build_wheel", "dist", cwd=source)
    (path,) = source.glob("dist/*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run Python in an empty folder with only the unpacked wheel."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    empty = tmp_path_factory.mktemp("empty")
    return lambda *command, **options: run(
        *command, cwd=empty, PYTHONPATH=site, HF_HUB_OFFLINE=1, **options
    )


def checksums(wheel):
    return {file.filename: file.CRC for file in zipfile.ZipFile(wheel).infolist()}


def test_no_file_of_the_project_is_large():
    ignored = {".git", ".venv", ".nox", "data", "work_dirs", "build", "dist", "site"}
    tops = [path for path in PROJECT.iterdir() if path.name not in ignored]
    files = [p for top in tops for p in (top.rglob("*") if top.is_dir() else [top]) if p.is_file()]
    assert max(p.stat().st_size for p in files) < 20e6


def test_the_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    run("-c", BUILD, "build_sdist", tmp_path, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    run("-c", BUILD, "build_wheel", tmp_path, cwd=folder)
    (again,) = tmp_path.glob("*.whl")
    contents = [checksums(path) for path in (wheel, again)]
    assert contents[0] == contents[1]
    assert again.stat().st_size < 20e6


def test_every_config_is_listed_and_no_benchmark(installed, wheel):
    listed = installed("-m", "fpn_neck", "list").split()
    configs = PROJECT / "configs"
    paths = [path.relative_to(configs).as_posix() for path in configs.rglob("*.py")]
    assert listed == sorted(f"fpn_neck::{p}" for p in paths if not p.startswith("_base_"))
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "benchmark" in name]
    entries = zipfile.ZipFile(wheel).read("fpn_neck-0.1.0.dist-info/entry_points.txt").decode()
    assert "fpn-neck = fpn_neck.__main__:run" in entries


def test_mmengine_finds_the_configs(installed):
    pytest.importorskip("mmengine")
    code = f"""
import fpn_neck
from mmengine.config import Config
from mmengine.hub import get_config
open('mine.py', 'w').write("_base_ = {CONFIG!r}")
print(get_config({CONFIG!r}).model.neck.type, Config.fromfile('mine.py').model.neck.type)
"""
    assert installed("-c", code).split() == ["fpn_neck.FPN"] * 2


def test_a_model_is_trained_and_predicts(installed, tmp_path):
    for package in ("mmseg", "timm", "pycocotools"):
        pytest.importorskip(package)
    data = tmp_path / "shapes"
    sizes = ["--train", 4, "--val", 2, "--size", 64, 96]
    installed("-m", "fpn_neck", "make_shapes", data, *sizes)
    work, options = tmp_path / "work", ["--cfg-options", *SMALL]
    command = ["-m", "fpn_neck", "train", CONFIG, "--work-dir", work, *options]
    installed(*command, SHAPES_ROOT=data)
    command = ["-m", "fpn_neck", "predict", CONFIG, work / "iter_1.pth", data / "val/images"]
    installed(*command, "--out", tmp_path / "out", SHAPES_ROOT=data)
    assert len(list((tmp_path / "out/labels").iterdir())) == 2


def test_messages_name_nothing_that_only_a_checkout_has(wheel):
    """Texts that are not docstrings of modules without a command: they are what a user reads."""
    archive = zipfile.ZipFile(wheel)
    for name in archive.namelist():
        if not name.endswith(".py") or "/.mim/" in name:
            continue
        tree = ast.parse(archive.read(name))
        documented = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        if "/cli/" in name:  # a command's help
            documented.discard(id(tree.body[0].value) if tree.body else None)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = CHECKOUT.search(node.value)
                assert not found or id(node) in documented, (name, found)
