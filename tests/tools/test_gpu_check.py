"""tools/gpu_check.py --quick: every part of the check for GPUs, on the CPU, at tiny sizes."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import gpu_check
import pytest
from benchmarks.goals import MEASUREMENTS
from helpers.project import PROJECT

PARTS = ["imports", "tests", "scenes", "training, fpn_neck", "training, mmseg", "speed and memory"]


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    for package in ("mmdet", "mmseg", "timm", "pycocotools"):
        pytest.importorskip(package)
    command = [sys.executable, str(PROJECT / "tools/gpu_check.py"), "--quick", "--seconds", "1500"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True
    )
    logs = [path.read_text()[-2000:] for path in tmp_path.glob("*.txt")]
    assert done.returncode == 0, (done.stdout, done.stderr, *logs)
    text = (tmp_path / "summary.md").read_text()
    assert done.stdout.endswith(text)
    for part in PARTS:
        assert f"| {part} | passed |" in text
    assert "Tests: 24 passed" in text

    (seconds,) = (line for line in text.splitlines() if line.startswith("| seconds |"))
    ours, theirs, ratio = (float(cell) for cell in seconds.split("|")[2:5])
    assert ours > 0 and theirs > 0 and ratio == pytest.approx(ours / theirs, abs=0.01)

    results = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert len({result["measurement"] for result in results}) == len(MEASUREMENTS)
    assert "left out" not in (tmp_path / "benchmark.txt").read_text().replace("CUDA graph", "")
    table = text[text.index("### Goals") :]
    assert table.count(" yes |") + table.count(" NO |") >= 18
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(path.is_file() for path in files)


def test_every_test_of_kernels_is_one_of_the_gpus():
    """On a GPU only those with the mark ``cuda`` run."""
    files = list((PROJECT / "tests/fast/cuda").glob("test_*.py"))
    kernels = [path for path in files if "need_kernels()" in path.read_text()]
    assert len(kernels) >= 7
    for path in kernels:
        assert "pytestmark = pytest.mark.cuda" in path.read_text(), path.name


def test_the_kernels_tests_come_first():
    """A time limit may end the tests."""
    names = gpu_check.tests_of_gpus()
    folders = [name.rsplit("/", 1)[0] for name in names]
    kernels, devices = folders.count("tests/fast/cuda"), folders.count("tests/devices")
    assert kernels >= 7 and devices >= 6
    assert set(folders[:kernels]) == {"tests/fast/cuda"}
    assert set(folders[kernels : kernels + devices]) == {"tests/devices"}
    assert len(set(names)) == len(names) > kernels + devices


def test_no_two_test_files_have_one_name():
    """pytest collects only one of them; without a GPU, files of kernels are skipped before."""
    names = Counter(path.name for path in (PROJECT / "tests").rglob("test_*.py"))
    assert len(names) > 100
    assert [name for name, n in names.items() if n > 1] == []


def test_a_part_that_hangs_is_ended_with_its_processes_and_keeps_its_output(tmp_path):
    late = tmp_path / "late"
    child = f"import time; time.sleep(6); open({str(late)!r}, 'w')"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    part = gpu_check.Part("hangs", [sys.executable, "-c", code], gpu_check.GRACE + 3, "log.txt")
    begin, handler = time.monotonic(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background
    try:
        part.run(tmp_path, begin + 100)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert part.outcome == "stopped after 3 s"
    assert (tmp_path / "log.txt").read_text().startswith("== hangs\nbegun\n")
    time.sleep(max(0, begin + 8 - time.monotonic()))
    assert not late.exists()


def test_what_fails_or_comes_too_late_is_named(tmp_path):
    failing = gpu_check.Part("fails", [sys.executable, "-c", "exit(3)"], 60, "log.txt")
    failing.run(tmp_path, time.monotonic() + 100)
    late = gpu_check.Part("late", [sys.executable, "-c", ""], 60, "log.txt")
    late.run(tmp_path, time.monotonic() + 1)
    text = gpu_check.summary([failing, late], tmp_path, [{}, {}])
    assert "| fails | failed (3) |" in text and "| late | no time left | 0 |" in text
    assert "Tests: none ran" in text and "not measured" in text


@pytest.mark.parametrize(
    "line",
    [
        "[gw3] [  1%] FAILED tests/devices/test_device_neck.py::test_sizes[cuda-1 px] ",
        "tests/devices/test_device_neck.py::test_sizes[cuda-1 px] FAILED      [ 12%]",
    ],
)
def test_outcomes_are_read_from_pytests_lines(tmp_path, line):
    again = "FAILED tests/devices/test_device_neck.py::test_sizes[cuda-one pixel] - assert 0\n"
    (tmp_path / "tests.txt").write_text(f"== tests\n{line}\n{again}")
    assert "Tests: 1 failed\n" in gpu_check.summary([], tmp_path, [{}, {}])
