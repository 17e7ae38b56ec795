"""All that needs a GPU, in six minutes: tests, speed and memory, real training; one table last.

tools/gpu_check.py [--out DIR] [--photos DIR] [--seconds 350]
tools/gpu_check.py --quick      the same steps on the CPU, at tiny sizes

It needs torch, timm, pytest and the packages of OpenMMLab with what they import; pytest-xdist makes
the tests faster. This package need not be installed. Each part has its own time limit, and a part
that fails does not end the others. DIR gets summary.md, benchmark.json, benchmark.md and what each
part printed. Exit code 1: a part failed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tools")]

from benchmarks.goals import goal_table  # noqa: E402
from benchmarks.training import Training, training_table  # noqa: E402

from fpn_neck.utils.command_line import run_tool  # noqa: E402

# Of all seconds. For about 560 tests Triton compiles some 600 kernels. That this is enough time in
# six processes, and too little in one, is an estimate.
TESTS_SHARE = 0.28
GRACE = 10  # seconds to print what is known, before a part is killed
OUTCOME = re.compile(r"^(?:\[gw\d+\] \[ *\d+%\] (\w+)|tests/.* (\w+) +\[ *\d+%\]$)", re.MULTILINE)
# The mark, a list of devices, or a test with the fixture ``device``.
NAMES_GPU = re.compile(r"mark\.cuda|\bCUDA\b|SLOW_ON_CPU|def test_\w+\([^)]*\bdevice\b")
IMPORTS = """
import fpn_neck  # first: it lets mmdet be imported beside mmcv-lite
import mmdet.models, mmseg.models, timm, torch
from mmengine.registry import MODELS
neck = MODELS.build(dict(type='fpn_neck.FPN', in_channels=[8, 8], out_channels=8))
assert type(neck) is fpn_neck.FPN
for module in (fpn_neck, torch, timm, mmdet, mmseg):
    print(module.__name__, module.__version__, module.__file__)
"""


@dataclass
class Part:
    """A process with a time limit.

    Attributes:
        log: file that gets what it prints.
        outcome: 'passed', 'failed (2)', 'stopped after 90 s', or 'no time left'.
    """

    name: str
    command: Sequence[str]
    limit: float
    log: str
    outcome: str = ""
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, out: Path, deadline: float) -> None:
        begin = time.monotonic()
        limit = min(self.limit, deadline - begin)
        if limit < GRACE:
            self.outcome = "no time left"
            return
        print(f"{self.name}: at most {limit:.0f} s", flush=True)
        with (out / self.log).open("a") as log:
            log.write(f"== {self.name}\n")
            log.flush()
            process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_take_interrupts,
            )
            try:
                code = process.wait(limit - GRACE)
                self.outcome = "passed" if code == 0 else f"failed ({code})"
            except subprocess.TimeoutExpired:
                self.outcome = f"stopped after {limit - GRACE:.0f} s"
            finally:
                _end(process)
        self.seconds = time.monotonic() - begin


def _take_interrupts() -> None:
    """A shell's jobs in the background ignore SIGINT, and so would every process of them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(process: subprocess.Popen) -> None:
    """Also the processes that it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # pytest prints what failed so far
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE / 2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/gpu_check"), metavar="DIR")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="clothing photos to train on; else made scenes"
    )
    parser.add_argument("--seconds", type=float, default=350, help="of everything together")
    return parser.parse_args()


def tests_of_gpus() -> list[str]:
    """Files in which tests may have the mark ``cuda``: the kernels' first, then those of devices.

    If the time ends, what is left are operators of other packages and whole trainings.
    """
    files = [p for p in (PROJECT / "tests").rglob("test_*.py") if NAMES_GPU.search(p.read_text())]
    names = [path.relative_to(PROJECT).as_posix() for path in files]
    first = "tests/fast/cuda/", "tests/devices/"
    return sorted(names, key=lambda n: ([not n.startswith(folder) for folder in first], n))


def parts_of(args: Namespace, scratch: Path, training: Training) -> list[Part]:
    python, out = sys.executable, args.out.resolve()
    scenes = {"SHAPES_ROOT": str(scratch / "shapes")}
    if args.photos:
        scenes["CLOTHING_ROOT"] = str(args.photos.resolve())
    height, width = training.size
    train, val = (8, 1) if args.quick else (128, 8)
    make = f"--train {train} --val {val} --size {height} {width}".split()
    tests = ["tests/devices/test_device_label_map.py", "-k", "cpu"]
    if not args.quick:
        tests = [*tests_of_gpus(), "-m", "cuda and not slow", "--continue-on-collection-errors"]
        tests += ["-n", "6", "--dist", "worksteal"] if find_spec("xdist") else []
    ruler = ["--quick", "--rounds", "2"] if args.quick else ["--device", "cuda"]
    slowness = 10 if args.quick else 1  # a CPU may be shared
    parts = [
        Part("imports", [python, "-c", IMPORTS], 40, "tests.txt"),
        Part(
            "tests",
            [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests],
            args.seconds * TESTS_SHARE,
            "tests.txt",
        ),
        Part(
            "scenes",
            [python, "tools/make_shapes.py", str(scratch / "shapes"), *make],
            30,
            "training.txt",
        ),
        *(
            Part(
                f"training, {name}",
                training.command(name, scratch),
                training.seconds + 40,
                "training.txt",
                environment=scenes,
            )
            for name in ("fpn_neck", "mmseg")
        ),
        # Last, with all the time that is left: it begins with what matters most.
        Part(
            "speed and memory",
            [python, "tools/benchmark.py", "--goals", *ruler, "--out", str(out)],
            args.seconds,
            "benchmark.txt",
        ),
    ]
    for part in parts:
        part.limit *= slowness
    return parts


def summary(parts: Sequence[Part], out: Path, trainings: Sequence[dict[str, float]]) -> str:
    """Markdown: the parts, the tests, the trainings, the goals."""
    lines = ["### Parts", "", "| part | outcome | seconds |", "| --- | --- | --- |"]
    lines += [f"| {p.name} | {p.outcome} | {p.seconds:.0f} |" for p in parts]
    log = out / "tests.txt"
    outcomes = [a or b for a, b in OUTCOME.findall(log.read_text())] if log.exists() else []
    counts = {name: outcomes.count(name) for name in dict.fromkeys(outcomes)}
    tests = ", ".join(f"{n} {name.lower()}" for name, n in counts.items()) or "none ran"
    file = out / "benchmark.json"
    results = json.loads(file.read_text())["results"] if file.exists() else []
    return "\n".join(
        [*lines, "", f"Tests: {tests}", "", training_table(*trainings), "", goal_table(results)]
    )


def main() -> int:
    args = parse_args()
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("tests.txt", "benchmark.txt", "benchmark.json", "benchmark.md", "training.txt"):
        (args.out / name).unlink(missing_ok=True)  # of a run before
    paths = [str(PROJECT), str(PROJECT / "tools"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    training = Training(seconds=22, photos=args.photos is not None)
    if args.quick:
        sizes = {"size": (64, 96), "batch": 2, "workers": 0, "warm_up": 2}
        training = Training(seconds=1, amp=False, photos=args.photos is not None, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        parts = parts_of(args, scratch, training)
        for part in parts:
            part.run(args.out, deadline)
        trainings = [training.results(name, scratch) for name in ("fpn_neck", "mmseg")]
    text = summary(parts, args.out, trainings)
    (args.out / "summary.md").write_text(f"{text}\n")
    print(text)
    return int(any(part.outcome != "passed" for part in parts))


if __name__ == "__main__":
    run_tool(main)
