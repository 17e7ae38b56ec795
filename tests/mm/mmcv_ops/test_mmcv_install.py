"""When the substitute for mmcv._ext is put in place, and what it answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import PROJECT

OURS = "[f for f in sys.meta_path if 'mmcv_ops' in repr(f)]"  # an editable install has a finder too
ROOT = PROJECT
PACKAGE = ROOT / "fpn_neck/mm/mmcv_ops"


def run(code: str, *options: str, first_on_path: Path | None = None) -> str:
    """Run code in a fresh interpreter that finds this fpn_neck; its output."""
    paths = [str(p) for p in (first_on_path, ROOT, os.environ.get("PYTHONPATH")) if p]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", *options, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_install_is_idempotent_and_imports_nothing():
    pytest.importorskip("mmcv")
    out = run(
        "import sys\n"
        "from fpn_neck.mm.mmcv_ops import install\n"
        "assert install() and install()\n"
        f"print(len({OURS}), {{'mmcv', 'mmengine', 'torchvision'}} & set(sys.modules))"
    )
    assert out.strip() == "1 set()"


def test_served_module_looks_like_the_real_one():
    pytest.importorskip("mmcv")
    out = run(
        "from fpn_neck.mm.mmcv_ops import install\n"
        "install()\n"
        "import mmcv.ops, mmcv._ext, mmcv.utils\n"
        "from mmengine.utils.dl_utils import mmcv_full_available\n"
        "print(mmcv._ext.__spec__.name, mmcv._ext.__spec__.origin)\n"
        "print(hasattr(mmcv._ext, '__path__'), hasattr(mmcv._ext, '_private'))\n"
        "print(mmcv_full_available())\n"
        "print(mmcv.utils.collect_env()['MMCV Compiler'])\n"
        "try:\n"
        "    mmcv._ext.bbox_overlaps(1, masks=2)\n"
        "except NotImplementedError as error:\n"
        "    print(error)"
    ).splitlines()
    assert out[0] == f"mmcv._ext {PACKAGE / '_ext.py'}"
    assert out[1] == "False False"
    assert out[2] == "True"
    assert "torchvision" in out[3]
    assert "'bbox_overlaps'" in out[4] and "pip install mmcv" in out[4]


def test_a_real_extension_wins_and_nothing_is_touched(tmp_path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").touch()
    (tmp_path / "mmcv/_ext.py").write_text("nms = 'compiled'\n")
    out = run(
        "import sys\n"
        "from fpn_neck.mm.mmcv_ops import install\n"
        f"print(install(), {OURS})\n"
        "import mmcv._ext\n"
        "print(mmcv._ext.nms)",
        first_on_path=tmp_path,
    )
    assert out.splitlines() == ["False []", "compiled"]


def test_a_real_extension_that_appears_later_wins(tmp_path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").touch()
    out = run(
        "from pathlib import Path\n"
        "from fpn_neck.mm.mmcv_ops import install\n"
        "print(install())\n"
        f"Path({str(tmp_path)!r}, 'mmcv/_ext.py').write_text('nms = 1')\n"
        "import importlib; importlib.invalidate_caches()\n"
        "import mmcv._ext\n"
        "print(mmcv._ext.nms)",
        first_on_path=tmp_path,
    )
    assert out.splitlines() == ["True", "1"]


def test_without_mmcv_nothing_happens():
    out = run(
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('bridge', {str(PACKAGE / '__init__.py')!r})\n"
        "bridge = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(bridge)\n"
        "before = list(sys.meta_path)\n"
        "print(u.find_spec('mmcv'), bridge.install(), sys.meta_path == before)",
        "-S",  # no site-packages: this alone makes mmcv missing
    )
    assert out.split() == ["None", "False", "True"]


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
def test_framework_models_import(framework):
    pytest.importorskip("mmcv")
    pytest.importorskip(framework)
    if framework == "mmseg":  # its tokenizer imports these, its metadata does not require them
        pytest.importorskip("ftfy")
        pytest.importorskip("regex")
    out = run(
        "from fpn_neck.mm.mmcv_ops import install\n"
        "install()\n"
        f"import {framework}.models\n"
        f"from {framework}.registry import MODELS\n"
        "print('FCNHead' in MODELS, 'RetinaHead' in MODELS)"
    )
    assert out.split()[-2:] == [str(framework == "mmseg"), str(framework == "mmdet")]
