"""Table, JSON and plot of the measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS
from benchmarks.measure import Contestant, summary
from fpn_neck.utils.files import write_whole


def result(
    case: str, mode: str, contestants: Sequence[Contestant], bounds: dict[str, float], batch: int
) -> dict[str, Any]:
    """One case and mode as plain data; contestants fastest first.

    ``bounds``: seconds for the arithmetic of direct convolutions, and for moving the maps, at this
    machine's rates.
    """
    rows = []
    for c in contestants:
        if c.seconds.get(mode):
            figures = summary(c.seconds[mode])
            rows.append(
                {"name": c.name, "seconds": figures, "images_per_s": batch / figures["median"]}
                | {"peak_bytes": c.peak.get(mode), "error": c.error}
                | {f"to_{k}": figures["median"] / v for k, v in bounds.items()}
            )
    rows.sort(key=lambda row: row["seconds"]["median"])
    return {"case": case, "mode": mode, "bounds_s": bounds, "rows": rows}


def table(results: dict[str, Any]) -> str:
    """Markdown; 'x' is the median over our median."""
    medians = {row["name"]: row["seconds"]["median"] for row in results["rows"]}
    bounds = ", ".join(f"{k} {1e3 * v:.0f} ms" for k, v in results["bounds_s"].items())
    lines = [
        f"### {results['case']}, {results['mode']}",
        f"at this machine's rates: {bounds}",
        "",
        "| | median ms | quartiles | min | max | x | of arithmetic | peak MB | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        s, peak = row["seconds"], row["peak_bytes"]
        cells = [
            row["name"],
            f"{1e3 * s['median']:.1f}",
            f"{1e3 * s['q25']:.1f} - {1e3 * s['q75']:.1f}",
            f"{1e3 * s['min']:.1f}",
            f"{1e3 * s['max']:.1f}",
            f"{s['median'] / medians[OURS]:.2f}" if OURS in medians else "",
            f"{row['to_arithmetic']:.2f}",
            "" if peak is None else f"{peak / 2**20:.0f}",
            "not compared" if row["error"] is None else f"{row['error']:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def save(
    folder: Path, machine: dict[str, Any], results: Sequence[dict[str, Any]], *, plot: bool = True
) -> list[Path]:
    """Write benchmark.json, benchmark.md and, if matplotlib is installed, benchmark.png."""
    text = "\n\n".join([f"{machine}", *map(table, results)]) + "\n"
    data = json.dumps({"machine": machine, "results": results}, indent=1) + "\n"
    paths = [folder / "benchmark.md", folder / "benchmark.json"]
    for path, content in zip(paths, (text, data), strict=True):
        write_whole(path, lambda p, content=content: p.write_text(content))
    if not plot:
        return paths
    try:
        import matplotlib.figure
    except ImportError:
        return paths
    figure = matplotlib.figure.Figure((9, 1 + sum(1 + 0.3 * len(r["rows"]) for r in results)))
    for ax, r in zip(figure.subplots(len(results), squeeze=False)[:, 0], results, strict=True):
        _bars(ax, r)
    figure.tight_layout()
    write_whole(folder / "benchmark.png", partial(figure.savefig, format="png"))
    return [*paths, folder / "benchmark.png"]


def _bars(ax: Any, results: dict[str, Any]) -> None:
    names = [row["name"] for row in results["rows"][::-1]]
    seconds = [row["seconds"] for row in results["rows"][::-1]]
    low, high = ([abs(s[q] - s["median"]) for s in seconds] for q in ("q25", "q75"))
    colours = ["C1" if name.startswith(OURS) else "C0" for name in names]
    ax.barh(names, [s["median"] for s in seconds], xerr=[low, high], color=colours)
    ax.axvline(results["bounds_s"]["arithmetic"], color="k", ls=":", label="direct arithmetic")
    ax.set_title(f"{results['case']}, {results['mode']}", fontsize=9)
    ax.set_xlabel("seconds, median and quartiles")
    ax.legend(fontsize=7)
