"""An evaluation of a checkpoint."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

from fpn_neck.mm.before_run import refusals
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.distributed.consensus import is_main_process
from fpn_neck.mm.distributed.launch import process_group
from fpn_neck.mm.explain import explained
from fpn_neck.mm.prepare import build_runner, check_output, prepare_testing
from fpn_neck.mm.training.batches import check_batches
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.utils.command_line import print_json, stdout_for_programs


def run(args: Namespace) -> None:
    """Evaluate, and print the metrics."""
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
