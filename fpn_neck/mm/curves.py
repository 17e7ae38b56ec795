"""Learning curves from the scalars that mmengine writes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

PLOTTED_METRICS = (
    "mIoU",
    "mIoU_occurring",
    "mIoU_foreground",
    "aAcc",
    "coco/bbox_mAP",
    "coco/segm_mAP",
    "coco/AR@1000",
    "coco_panoptic/PQ",
)
Series = dict[str, list[tuple[int, float]]]
Points = dict[str, dict[int, float]]


def read_scalars(work_dir: Path) -> Series:
    """Name -> [(step, value), ...] over the runs in a work dir.

    Reads ``<work_dir>/<timestamp>/vis_data/scalars.json``, one JSON object per line; a line that a
    killed run left unfinished is ignored. A later run replaces everything from its own first step
    on: all earlier values if it is a new run, the later part of them if it was resumed.
    """
    series: Points = defaultdict(dict)
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        rows = [row for line in file.read_text().splitlines() if (row := _parse(line))]
        run: Points = defaultdict(dict)
        for row in rows:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    run[name][row["step"]] = value
        start = min((row["step"] for row in rows), default=math.inf)
        for name in series | run:  # each by itself: some steps are iterations, others epochs
            first = min(run[name], default=start)
            earlier = {step: value for step, value in series[name].items() if step < first}
            series[name] = earlier | run[name]
    return {name: sorted(points.items()) for name, points in series.items() if points}


def _parse(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def draw_curves(
    series: Series, path: Path | BinaryIO, metrics: Iterable[str] = PLOTTED_METRICS
) -> None:
    """Draw the losses (left) and the validation metrics (right) into a PNG file."""
    from matplotlib.figure import Figure  # unlike pyplot, it needs no display and keeps no figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in series:
        if "loss" in name:
            marker = "o" if len(series[name]) == 1 else None
            left.plot(*zip(*series[name], strict=True), marker=marker, label=name)
    for name in metrics:
        if name in series:
            right.plot(*zip(*series[name], strict=True), marker="o", label=name)
    for axes, title in ((left, "training loss"), (right, "validation")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120, format="png")
