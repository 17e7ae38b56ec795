"""Measure neck, head, segmenter, loss and label maps against other libraries, with equal weights.

tools/benchmark.py [--quick] [--device cuda] [--what neck head segmenter loss dice_loss labels]
  [--case resnet50:800x1216 ...] [--batch 1 2 8] [--classes 59 150] [--mode forward step]
tools/benchmark.py --goals [--device cuda]     what docs/performance.md has goals for, on a GPU
tools/benchmark.py --sweep [--sizes 64x64 ...] [--channels 32 256] [--batch 1 16] [--mode forward]
tools/benchmark.py --recipes demo clothing     an iteration of their training, on a CPU
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import torch
from benchmarks import measure, report
from benchmarks.cases import CHANNELS, PRECISIONS, Case
from benchmarks.contestants import build_contestants
from benchmarks.goals import MEASUREMENTS, goal_table
from benchmarks.heads import HeadCase
from benchmarks.labels import LabelsCase
from benchmarks.losses import DiceLossCase, LossCase
from benchmarks.necks import BATCHES, MOST_RATIO, SIZES, SWEEP_HEAD, WIDTHS, NeckCase, Ratio, sweep
from benchmarks.recipes import HEAD, RECIPES, measure_recipe
from benchmarks.segmenters import SegmenterCase

import fpn_neck  # noqa: F401 (lets mmdet be imported beside mmcv-lite)
from fpn_neck.utils.command_line import run_tool, size_argument

CASES_BY_NAME = {
    "neck": NeckCase,
    "head": HeadCase,
    "segmenter": SegmenterCase,
    "loss": LossCase,
    "dice_loss": DiceLossCase,
    "labels": LabelsCase,
}
DEFAULT_CASES = ["resnet50:800x1216", "resnet50:512x512", "tf_efficientnet_lite0:512x512"]
MODES = ["forward", "step"]  # a step is forward and backward


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_cases(parser)
    add_measurement(parser)
    add_tables(parser)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark"))
    return completed(parser.parse_args())


def add_cases(parser: ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--what", nargs="+", choices=list(CASES_BY_NAME), default=["neck"])
    parser.add_argument("--case", nargs="+", default=DEFAULT_CASES, metavar="BACKBONE:HxW")
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument(
        "--classes", nargs="+", type=int, default=[59], help="K of all but the neck"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="amp: autocast to bfloat16; on a GPU, float32 has TF32 in convolutions",
    )
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES)
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="only contestants with one of these in the name"
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="leave out contestants with one of these in the name",
    )


def add_measurement(parser: ArgumentParser) -> None:
    """How it is measured."""
    parser.add_argument("--rounds", type=int, default=15, help="measured calls of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--load", type=int, default=0, help="programs beside, each of which keeps a core busy"
    )
    parser.add_argument(
        "--clock",
        choices=list(measure.CLOCKS),
        default="wall",
        help="'cpu' for a busy machine; a GPU has its own",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="first case, nothing compiled or exported, 5 rounds; with --goals, tiny sizes and "
        "one layout",
    )


def add_tables(parser: ArgumentParser) -> None:
    """What is printed instead of a table for each case."""
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--goals",
        action="store_true",
        help="the cases that have goals, instead of --what to --mode, and the goals' table last; "
        "what fails is left out",
    )
    instead.add_argument(
        "--sweep",
        action="store_true",
        help="the neck over torch's own operators at many sizes; exit code 1 if ours is slower",
    )
    instead.add_argument(
        "--recipes",
        nargs="+",
        choices=list(RECIPES),
        help="an iteration of these trainings, with our neck and head and with mmseg's",
    )
    parser.add_argument("--sizes", nargs="+", metavar="HxW", help="of --sweep")
    parser.add_argument("--channels", nargs="+", type=int, default=WIDTHS, help="of --sweep")


def completed(args: Namespace) -> Namespace:
    """The arguments with what follows from others.

    Raises:
        ValueError: one is out of its range, or two do not go together.
    """
    if args.quick:
        args.case, args.rounds = args.case[:1], min(args.rounds, 5)
        args.skip += ["compile", "max-autotune", "ONNX", "OpenVINO"]
        args.skip += ["channels_last"] if args.goals else []
    args.batch = args.batch or (BATCHES if args.sweep else [1])
    if min(args.threads, *args.batch, *args.classes, *args.channels) < 1:
        raise ValueError("--threads, --batch, --classes, --channels: at least 1")
    if args.rounds < 2 or args.load < 0:
        raise ValueError("--rounds: at least 2; --load: at least 0")
    args.sizes = [size_argument(text, "--sizes") for text in args.sizes] if args.sizes else SIZES
    if args.device == "cuda":
        if args.sweep or args.recipes:
            raise ValueError("--sweep, --recipes: they measure the CPU; leave --device out")
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no GPU")
        args.clock = measure.GPU_CLOCK
    return args


def parse_case(text: str, batch: int, precision: str, classes: int) -> dict:
    backbone, _, size = text.partition(":")
    if backbone not in CHANNELS:
        known = ", ".join(CHANNELS)
        raise ValueError(f"--case {text}: expected BACKBONE:HEIGHTxWIDTH, with one of {known}")
    height, width = size_argument(size, "--case")
    sizes = {"height": height, "width": width, "batch": batch, "classes": classes}
    return {"backbone": backbone, "precision": precision} | sizes


def is_wanted(name: str, only: list[str] | None, skip: list[str]) -> bool:
    return (only is None or any(text in name for text in only)) and not any(
        text in name for text in skip
    )


def measure_case(what: str, case: Case, args: Namespace) -> list[dict]:
    """One result for each mode, printed as a table."""
    contestants, missing = build_contestants(
        case, lambda name: is_wanted(name, args.only, args.skip), keep_going=args.goals
    )
    return measure_modes(f"{what}: {case}", case, contestants, missing, args.mode, args)


def measure_modes(
    title: str,
    case: Case,
    contestants: list[measure.Contestant],
    missing: list[str],
    modes: Sequence[str],
    args: Namespace,
) -> list[dict]:
    for reason in missing:
        print(f"left out: {reason}")
    dtype = torch.bfloat16 if case.arithmetic == "bfloat16" else torch.float32
    rates, work, results = measure.rates(dtype, args.clock, min(9, args.rounds)), case.work(), []
    for mode in modes:
        for reason in measure.run(
            contestants, mode, args.rounds, args.clock, keep_going=args.goals
        ):
            print(f"left out: {reason}")
        passes = 1 if mode == "forward" else 3  # backward: to the input and to the weight
        bounds = {
            "arithmetic": passes * work["multiply_adds"] / rates["multiply_adds_per_s"],
            "traffic": passes * work["bytes"] / rates["bytes_per_s"],
        }
        results.append(report.result(title, mode, contestants, bounds, case.batch))
        print(f"\n{report.table(results[-1])}", flush=True)
    return results


def measure_goals(machine: dict, args: Namespace) -> list[dict]:
    """What the goals are about; saved after each case, since a time limit may end the process."""
    results: list[dict] = []
    for m in MEASUREMENTS:
        case = CASES_BY_NAME[m.what](**m.options(args.device, tiny=args.quick))
        title = f"{m.name}: {case}"
        try:
            contestants, missing = build_contestants(
                case,
                lambda name, m=m: name in m.contestants and is_wanted(name, args.only, args.skip),
                keep_going=True,
            )
            found = measure_modes(title, case, contestants, missing, m.modes, args)
        except Exception as e:  # of any type: the other cases go on
            print(f"left out: {title} FAILED, {type(e).__name__}: {str(e).strip()[:300]}")
            continue
        results += [result | {"measurement": m.name} for result in found]
        report.save(args.out, machine, results, plot=False)
    return results


def print_sweep(ratios: Iterable[Ratio]) -> int:
    """1 if ours is slower than torch's operators somewhere, else 0."""
    print(SWEEP_HEAD)
    slower = 0
    for ratio in ratios:
        print(ratio, flush=True)
        slower += ratio.is_slower
    print(f"\n{slower} ratios are above {MOST_RATIO}")
    return int(slower > 0)


def main() -> int | None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    machine = measure.machine(args.device) | {"clock": args.clock, "busy programs": args.load}
    print(machine)
    with measure.busy_programs(args.load):
        return run_measurements(machine, args)


def run_measurements(machine: dict, args: Namespace) -> int | None:
    """The exit code."""
    if args.sweep:
        sizes = args.sizes, args.channels, args.batch
        return print_sweep(sweep(*sizes, args.mode, args.rounds, args.clock))
    if args.recipes:
        print(HEAD)
        for name in args.recipes:
            print(measure_recipe(name, args.rounds, args.clock), flush=True)
        return None
    if args.goals:
        print(f"\n{goal_table(measure_goals(machine, args))}")
        return None
    results = []
    choices = product(args.case, args.batch, args.dtype, args.classes)
    options = [parse_case(*choice) | {"device": args.device} for choice in choices]
    for what, chosen in product(args.what, options):
        results += measure_case(what, CASES_BY_NAME[what](**chosen), args)
    for path in report.save(args.out, machine, results):
        print(path)
    return None


if __name__ == "__main__":
    run_tool(main)
