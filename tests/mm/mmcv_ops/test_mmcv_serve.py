"""fpn-neck doctor --serve-ops on|off, in a copied mmcv that comes first on the path."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.project import PROJECT

for _package in ("mmcv", "mmdet"):
    pytest.importorskip(_package)


@pytest.fixture
def site(tmp_path):
    source = Path(find_spec("mmcv").submodule_search_locations[0])
    if list(source.glob("_ext.*")):
        pytest.skip("mmcv has operators of its own")
    shutil.copytree(source, tmp_path / "site/mmcv", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def run(site, *command):
    paths = [str(site), str(PROJECT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    words = [sys.executable, "-W", "ignore", *command]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)


def serve(site, how):
    return run(site, "-m", "fpn_neck", "doctor", "--serve-ops", how)


INFERENCE = """
from mmdet.apis import init_detector
import mmcv._ext, sys
print(mmcv._ext.__file__, callable(mmcv._ext.nms), callable(mmcv._ext.bbox_overlaps))
"""


def test_stock_programs_work_while_it_is_on(site):
    """Without ``import fpn_neck``; also mmcv's operators that exist only compiled have a name."""
    path = site / "mmcv/_ext.py"
    assert run(site, "-c", INFERENCE).returncode != 0
    done = serve(site, "on")
    assert done.returncode == 0 and str(path) in done.stdout, done.stderr
    assert len(path.read_text().splitlines()) == 1
    done = run(site, "-c", INFERENCE)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()  # OneDL's packages print at import
    assert last.split() == [str(path), "True", "True"]
    assert serve(site, "on").returncode == 0
    report = run(site, "-m", "fpn_neck", "doctor").stdout
    assert "--serve-ops off removes it" in report and "nothing is wrong" in report
    done = serve(site, "off")
    assert done.returncode == 0 and not path.exists()
    assert "is not there" in serve(site, "off").stdout


def test_another_file_and_a_compiled_mmcv_are_left_alone(site, assert_refused):
    path = site / "mmcv/_ext.py"
    path.write_text("nms = 1\n")
    for how in ("on", "off"):
        assert_refused(serve(site, how), "_ext.py is not of fpn-neck doctor")
    assert path.read_text() == "nms = 1\n"
    path.unlink()
    (site / f"mmcv/_ext{EXTENSION_SUFFIXES[0]}").touch()
    assert_refused(serve(site, "on"), "compiled operators")
    assert not path.exists()
