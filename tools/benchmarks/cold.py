"""Cold start: importing a neck's library, building the neck, its first forward; fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import torch

from benchmarks.cases import CHANNELS
from benchmarks.necks import WIDTH, NeckCase

# What a user writes, after `import torch`; with mmcv-lite, mmdet needs fpn_neck's operators.
IMPORTS = {
    "fpn_neck": "from fpn_neck import FPN",
    "mmdet": "import fpn_neck; from mmdet.models.necks import FPN",
    "torchvision": "from torchvision.ops import FeaturePyramidNetwork as FPN",
}
_CODE = """
import json, sys, time
import torch
torch.set_num_threads({threads})
maps = [torch.randn(shape) for shape in {shapes}]
times = [time.perf_counter()]
{statement}
times.append(time.perf_counter())
neck = FPN({arguments}).eval()
times.append(time.perf_counter())
with torch.no_grad():
    neck({inputs})
times.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def table(case: NeckCase, rounds: int) -> str:
    """Markdown, medians over ``rounds`` processes of each library, in turn, in milliseconds."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, found in seconds.items():
            found.append(_run(case, name))
    lines = [
        f"### neck: {case}, cold start",
        "| | import ms | build ms | first forward ms |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in seconds.items():
        steps = [f"{1e3 * statistics.median(step):.0f}" for step in zip(*found, strict=True)]
        lines.append(f"| {' | '.join([name, *steps])} |")
    return "\n".join(lines)


def _run(case: NeckCase, name: str) -> list[float]:
    is_torchvision = name == "torchvision"
    channels = list(CHANNELS[case.backbone])
    code = _CODE.format(
        threads=torch.get_num_threads(),
        shapes=[tuple(x.shape) for x in case.inputs()],
        statement=IMPORTS[name],
        arguments=f"{channels}, {WIDTH}"
        + ("" if is_torchvision else f", num_outs={len(channels)}"),
        inputs="dict(zip('abcd', maps))" if is_torchvision else "maps",
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
