"""What is to be measured on a GPU, and what it has to show: our time and memory over another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import OURS, PLAIN

LAST = ", channels_last"
TINY = {"backbone": "tf_efficientnet_lite0", "height": 32, "width": 32, "batch": 2, "classes": 5}
PLAIN_GOAL = 1.05  # without the fast paths, in anything


def _both(*names: str) -> tuple[str, ...]:
    """Each in both layouts."""
    return tuple(f"{name}{layout}" for name in names for layout in ("", LAST))


@dataclass(frozen=True)
class Measurement:
    """A case and its contestants, by their exact names."""

    name: str
    what: str
    case: dict[str, Any]
    contestants: tuple[str, ...]
    modes: tuple[str, ...] = ("forward", "step")

    def options(self, device: str, *, tiny: bool = False) -> dict[str, Any]:
        """Of the class of cases."""
        return self.case | {"device": device} | (TINY if tiny else {})


def _neck(name: str, *contestants: str, modes: tuple[str, ...], **case: Any) -> Measurement:
    sizes = {"backbone": "resnet50", "height": 800, "width": 1216}
    return Measurement(name, "neck", sizes | case, contestants, modes)


def _segmenter(name: str, backbone: str) -> Measurement:
    case = {"backbone": backbone, "height": 512, "width": 512, "batch": 8, "classes": 150}
    contestants = _both(OURS, PLAIN, "mmseg")
    return Measurement(name, "segmenter", case | {"precision": "amp"}, contestants)


def _head(name: str, precision: str) -> Measurement:
    case = {"backbone": "resnet50", "height": 512, "width": 512, "batch": 8, "classes": 59}
    return Measurement(name, "head", case | {"precision": precision}, _both(OURS, PLAIN, "mmseg"))


def _logits(name: str, what: str, other: str, modes: tuple[str, ...], **case: Any) -> Measurement:
    return Measurement(name, what, {"backbone": "resnet50"} | case, (OURS, PLAIN, other), modes)


_CLOTHES = {"height": 512, "width": 352, "batch": 16, "classes": 59}
_PHOTO = {"height": 2000, "width": 3000, "classes": 194}
_EAGER = _both("mmdet", "torchvision")
_COMPILED = tuple(f"{name}, torch.compile{LAST}" for name in ("mmdet", "torchvision"))
_AUTOTUNED = f"mmdet, max-autotune{LAST}"

# In this order: what takes long, because it is compiled, comes last.
MEASUREMENTS = [
    _segmenter("segmenter, lite0", "tf_efficientnet_lite0"),
    _segmenter("segmenter, ResNet-50", "resnet50"),
    _logits("loss, CE", "loss", "resize + loss", ("step",), **_CLOTHES),
    _logits("loss, CE + Dice", "dice_loss", "resize + loss", ("step",), **_CLOTHES),
    _logits("label map", "labels", "mmseg", ("forward",), **_PHOTO),
    _logits("label maps", "labels", "mmseg", ("forward",), **_CLOTHES),
    _neck(
        "neck, batch 1",
        *_both(OURS, PLAIN, "mmdet"),
        *_both(f"{OURS}, CUDA graph", "mmdet, CUDA graph"),
        modes=("forward",),
        batch=1,
        precision="bfloat16",
    ),
    _neck(
        "neck, batch 8",
        *_both(OURS, PLAIN),
        *_EAGER,
        modes=("forward", "step"),
        batch=8,
        precision="bfloat16",
    ),
    _neck(
        "neck, float32",
        *_both(OURS, PLAIN),
        *_EAGER,
        modes=("forward", "step"),
        batch=8,
    ),
    _head("head, bfloat16", "bfloat16"),
    _head("head, float32", "float32"),
    _neck(
        "neck, compiled",
        *_both(OURS),
        *_EAGER,
        *_COMPILED,
        f"{OURS}, torch.compile{LAST}",
        modes=("forward", "step"),
        batch=8,
        precision="bfloat16",
    ),
    _neck(
        "neck, autotuned",
        *_both(OURS),
        "mmdet",
        _AUTOTUNED,
        modes=("forward",),
        batch=8,
        precision="bfloat16",
    ),
]


@dataclass(frozen=True)
class Goal:
    """Ours over the other, at most.

    Attributes:
        time, memory: largest ratio; None if there is no goal.
        ours, others: contestants, of which the fastest counts; no others: all that are not ours.
    """

    work: str
    measurement: str
    mode: str
    time: float
    others: tuple[str, ...] = ()
    ours: tuple[str, ...] = (OURS,)
    memory: float | None = None


_OURS = _both(OURS)
_GRAPH = _both(f"{OURS}, CUDA graph")

GOALS = [
    *(
        Goal(f"{work}, {backbone}", f"segmenter, {backbone}", mode, time, ("mmseg",), memory=memory)
        for work, mode, time, memory in (
            ("training step", "step", 0.75, 0.45),
            ("photo -> labels", "forward", 0.6, None),
        )
        for backbone in ("lite0", "ResNet-50")
    ),
    Goal("loss, CE", "loss, CE", "step", 0.5, memory=0.1),
    Goal("loss, CE + Dice", "loss, CE + Dice", "step", 0.35, memory=0.1),
    Goal("label map, K = 194, 2000x3000", "label map", "forward", 0.4, memory=0.05),
    Goal("neck, bf16, batch 8", "neck, batch 8", "forward", 0.42, ("mmdet",), _OURS, 1.0),
    Goal("neck, bf16, batch 8", "neck, batch 8", "forward", 0.45, (f"mmdet{LAST}",), _OURS, 1.0),
    Goal("neck, bf16, batch 8", "neck, compiled", "forward", 0.85, _COMPILED, _OURS),
    Goal("neck, bf16, batch 8", "neck, autotuned", "forward", 0.85, (_AUTOTUNED,), _OURS),
    Goal("neck, bf16, batch 1", "neck, batch 1", "forward", 0.6, ("mmdet",), _OURS),
    *(
        Goal("neck, bf16, batch 1", "neck, batch 1", "forward", 0.55, (other,), _GRAPH)
        for other in _both("mmdet, CUDA graph")
    ),
    Goal("neck step, bf16, batch 8", "neck, batch 8", "step", 0.7, ("mmdet",), _OURS, 0.7),
    Goal("neck step, bf16, batch 8", "neck, compiled", "step", 0.9, (), _OURS),
    *(
        Goal(f"head, {precision}, batch 8", f"head, {precision}", "forward", 0.6, ("mmseg",), _OURS)
        for precision in ("bfloat16", "float32")
    ),
    Goal(
        "neck, float32 (TF32), batch 8",
        "neck, float32",
        "forward",
        0.65,
        (f"mmdet{LAST}",),
        _OURS,
    ),
]


def goal_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: every goal and whether it is met, then where the plain path misses its goal.

    Args:
        results: of `report.result`, each with the key 'measurement'.
    """
    found = {
        (r["measurement"], r["mode"]): {row["name"]: row for row in r["rows"]} for r in results
    }
    lines = [
        "### Goals",
        "",
        "| work | ours | the other | ratio | goal | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for goal in GOALS:
        lines += _goal_lines(goal, found.get((goal.measurement, goal.mode), {}))
    plain = [
        line
        for (measurement, mode), rows in found.items()
        for line in _plain_lines(f"{measurement}, {mode}", rows)
    ]
    missed = [line for line in plain if line.endswith(" NO |")]
    summary = f"{PLAIN}: {len(plain) - len(missed)} of {len(plain)} ratios are <= {PLAIN_GOAL}"
    return "\n".join([*lines, *missed, "", summary])


def _goal_lines(goal: Goal, rows: dict[str, dict]) -> list[str]:
    names = goal.others or tuple(name for name in rows if not name.startswith(OURS))
    ours, other = _fastest(rows, goal.ours), _fastest(rows, names)
    if ours is None or other is None:
        other = " / ".join(goal.others) or "the fastest other"
        return [f"| {goal.work} | | {other} | not measured | <= {goal.time} | |"]
    return _compared(goal.work, ours, other, goal.time, goal.memory)


def _plain_lines(work: str, rows: dict[str, dict]) -> list[str]:
    """The plain path over the fastest eager contestant of another library in the same layout."""
    lines = []
    for layout in ("", LAST):
        plain = rows.get(f"{PLAIN}{layout}")
        names = [f"{name}{layout}" for name in ("mmseg", "mmdet", "torchvision", "resize + loss")]
        other = _fastest(rows, names)
        if plain and other:
            lines += _compared(work, plain, other, PLAIN_GOAL, PLAIN_GOAL)
    return lines


def _fastest(rows: dict[str, dict], names: Sequence[str]) -> dict | None:
    known = [rows[name] for name in names if name in rows]
    return min(known, key=lambda row: row["seconds"]["median"], default=None)


def _compared(
    work: str, ours: dict, other: dict, time: float | None, memory: float | None
) -> list[str]:
    figures = [(time, "ms", *(1e3 * row["seconds"]["median"] for row in (ours, other)))]
    if ours["peak_bytes"] is not None and other["peak_bytes"]:
        figures.append((memory, "MiB", *(row["peak_bytes"] / 2**20 for row in (ours, other))))
    lines = []
    for goal, unit, a, b in figures:
        if goal is not None:
            cells = [work, f"{ours['name']} {a:.4g} {unit}", f"{other['name']} {b:.4g} {unit}"]
            cells += [f"{a / b:.2f}", f"<= {goal}", "yes" if a / b <= goal else "NO"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
