"""Train variants of a recipe, each with several seeds, and write one table.

tools/study.py STUDY --list
tools/study.py STUDY NAME... --iters N | --minutes M [--seeds 0 1 2] [--out DIR] [--base NAME]

STUDY is a Python file with `base` (a config), `factors` (name -> options that change the config,
as with --cfg-options), `common` (options of all runs) and `metrics`. NAME is a factor, several of
them joined by '+', or 'base', the recipe itself. --minutes sets the iterations of each run by a
short timing before it, so that runs take equal time. The schedule is stretched to the iterations.
A run is validated once, at its end: no checkpoint is chosen.

DIR/table.md and DIR/table.json hold all runs that were ever finished in DIR. A finished run is not
repeated, and one that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tools")]

from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.utils.command_line import run_tool  # noqa: E402
from fpn_neck.utils.files import write_whole  # noqa: E402

TIMED = 15  # iterations of a timing; mmengine's `time` is the mean of the last ten
BASE = "base"


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("study", help="Python file with base, factors, common and metrics")
    parser.add_argument("names", nargs="*", metavar="NAME", help="factors, joined by '+'; base")
    parser.add_argument("--list", action="store_true", help="list the factors and stop")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--iters", type=int, help="iterations of every run")
    budget.add_argument("--minutes", type=float, help="training time of every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/study"), metavar="DIR")
    parser.add_argument("--base", default=BASE, help="the row that others are compared with")
    return parser.parse_args()


class Study:
    """What a study file says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it lacks a name.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"study {path}: no such file")
        content = runpy.run_path(path)
        missing = [n for n in ("base", "factors", "common", "metrics") if n not in content]
        if missing:
            raise ValueError(f"study {path} lacks {', '.join(missing)}")
        base = content["base"]
        self.base = base if "::" in base else str(Path(path).parent / base)
        self.factors: Mapping[str, dict] = {BASE: {}, **content["factors"]}
        self.common: dict[str, Any] = content["common"]
        self.metrics: list[str] = content["metrics"]

    def config(self, name: str) -> Config:
        """The config of factors that are joined by '+', without budget and seed.

        Raises:
            ValueError: a factor is unknown.
        """
        cfg = load_config(self.base)
        for factor in name.split("+"):
            if factor not in self.factors:
                raise ValueError(f"factor {factor!r}: choose from {', '.join(self.factors)}")
            cfg.merge_from_dict(self.factors[factor])
        cfg.merge_from_dict(self.common)
        return cfg


def set_budget(cfg: Config, iters: int) -> None:
    """Train for so many iterations; begins and ends of the schedule move in proportion."""
    before = cfg.train_cfg.max_iters
    for scheduler in cfg.param_scheduler:
        for name in ("begin", "end", "T_max"):
            if scheduler.get(name):
                scheduler[name] = max(1, round(scheduler[name] * iters / before))
    cfg.train_cfg.update(max_iters=iters, val_interval=iters)


def train(cfg: Config, folder: Path) -> None:
    """Raises ValueError if the training fails; its last lines are in ``folder/log.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.py"
    cfg.dump(config)
    command = [sys.executable, PROJECT / "tools/train.py", config, "--work-dir", folder]
    # A run that goes on has its own weights; `load_from` may have other labels.
    goes_on = (folder / "last_checkpoint").is_file()
    command.append("--resume" if goes_on else "--allow-mismatch")
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    if done.returncode:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        raise ValueError(f"{folder}: exit code {done.returncode}: {' '.join(lines[-1:])}")


def seconds_per_iteration(cfg: Config, folder: Path) -> float:
    """Of a short training, which is neither validated nor saved: the next one is timed too."""
    cfg = Config(cfg.to_dict())
    cfg.train_cfg.update(max_iters=TIMED, val_interval=TIMED, val_begin=TIMED + 1)
    cfg.default_hooks.logger.interval = TIMED
    cfg.default_hooks.checkpoint.update(interval=TIMED + 1, save_last=False)
    train(cfg, folder)
    return read_scalars(folder)["time"][-1][1]


def run(study: Study, name: str, seed: int, args: Namespace) -> dict[str, Any]:
    """One run; its result is also in ``result.json`` of its folder."""
    folder = args.out / name / f"seed{seed}"
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text())
    cfg = study.config(name)
    iters = args.iters
    if iters is None:
        timing = folder.with_name("timing")
        iters = max(TIMED, round(60 * args.minutes / seconds_per_iteration(cfg, timing)))
    set_budget(cfg, iters)
    cfg.randomness = dict(seed=seed)
    train(cfg, folder)
    scalars = read_scalars(folder)
    found = {
        "name": name,
        "seed": seed,
        "iters": iters,
        "seconds_per_iteration": statistics.median(v for _, v in scalars["time"]),
        **{metric: scalars[metric][-1][1] for metric in study.metrics},
    }
    write_whole(result, lambda path: path.write_text(json.dumps(found, indent=1)))
    return found


def finished(out: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob("*/seed*/result.json"))]


def table(results: Sequence[Mapping[str, Any]], metrics: Sequence[str], base: str) -> str:
    """Markdown, a row per name: mean ± half of the range over its seeds (difference from base)."""
    rows = ["| run | seeds | iterations | s / iteration | " + " | ".join(metrics) + " |"]
    rows.append("| --- " * (4 + len(metrics)) + "|")
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_name.setdefault(result["name"], []).append(result)
    for name in sorted(by_name, key=lambda n: (n != base, n)):
        runs = by_name[name]
        iters = "..".join(str(n) for n in sorted({r["iters"] for r in runs}))
        seconds = statistics.mean(r["seconds_per_iteration"] for r in runs)
        cells = [_cell(runs, by_name.get(base, []), m) for m in metrics]
        rows.append(f"| {name} | {len(runs)} | {iters} | {seconds:.2f} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(runs: Sequence[Mapping], base: Sequence[Mapping], metric: str) -> str:
    values = [r[metric] for r in runs]
    mean = statistics.mean(values)
    text = f"{mean:.2f}"
    if len(values) > 1:
        text += f" ± {(max(values) - min(values)) / 2:.2f}"
    if base and runs is not base:
        text += f" ({mean - statistics.mean(r[metric] for r in base):+.2f})"
    return text


def main() -> int:
    args = parse_args()
    study = Study(args.study)
    if args.list or not args.names:
        print(*study.factors, sep="\n")
        return 0
    if args.iters is None and args.minutes is None:
        raise ValueError("give the budget of every run: --iters N or --minutes M")
    for name in args.names:
        study.config(name)  # a wrong name is refused before the first run
    failed = []
    for seed in args.seeds:  # every name once, then again: a study that is stopped is even
        for name in args.names:
            try:
                print(json.dumps(run(study, name, seed, args)), flush=True)
            except ValueError as error:  # one run must not end the others
                failed.append(str(error))
            results = finished(args.out)
            text = table(results, study.metrics, args.base)
            write_whole(args.out / "table.json", lambda p, r=results: p.write_text(json.dumps(r)))
            write_whole(args.out / "table.md", lambda p, t=text: p.write_text(t))
    print(table(finished(args.out), study.metrics, args.base))
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_tool(main)
