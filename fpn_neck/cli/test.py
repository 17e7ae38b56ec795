"""Evaluate a checkpoint of any mmseg or mmdet config: fpn-neck test CONFIG CHECKPOINT."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

from fpn_neck.mm.before_run import refusals
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.mm.distributed.consensus import is_main_process
from fpn_neck.mm.distributed.launch import process_group
from fpn_neck.mm.explain import explained
from fpn_neck.mm.prepare import build_runner, check_output, prepare_testing
from fpn_neck.mm.training.batches import check_batches
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.utils.command_line import (
    add_json_argument,
    command_parser,
    print_json,
    stdout_for_programs,
)


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out",
        help="mmseg: folder of label PNGs, with the values of the data set's masks (class 0 is 0, "
        "or 1 with reduce_zero_label=True); mmdet: .pkl of predictions",
    )
    parser.add_argument("--show-dir", help="folder for painted pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_json_argument(parser, "the metrics")
    add_mismatch_argument(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with stdout_for_programs(args.json):
        read_urls_safely()
        cfg = prepare_testing(args)
        refusals(cfg, args.config, "test", files=False)
        with process_group(cfg), explained(cfg, "test") as step:
            runner = build_runner(cfg)
            runner.register_hook(step)
            check_batches(runner, "test")
            guard_checkpoints(runner, "test", allow_mismatch=args.allow_mismatch)
            check_output(runner)
            metrics, is_main = runner.test() or {}, is_main_process()
    if args.json and is_main:
        print_json({"metrics": {name: finite(value) for name, value in metrics.items()}})


def finite(value: Any) -> float | None:
    """A metric; None for NaN, which JSON does not know."""
    return float(value) if math.isfinite(value) else None
