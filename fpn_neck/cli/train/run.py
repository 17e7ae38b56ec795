"""A training, from the refusals before it to its end."""

from __future__ import annotations

import signal
from argparse import Namespace
from functools import partial

from fpn_neck.mm.before_run import refusals
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.load import Config
from fpn_neck.mm.config.types import framework
from fpn_neck.mm.distributed.consensus import (
    differing_checkpoints,
    gather_errors,
    print_errors,
)
from fpn_neck.mm.distributed.launch import process_group
from fpn_neck.mm.explain import explained
from fpn_neck.mm.last_checkpoint import check_last_checkpoint
from fpn_neck.mm.prepare import build_runner, check_model, prepare_training
from fpn_neck.mm.training.batches import check_batches
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.mm.training.restoring_hook import train


def check(cfg: Config, args: Namespace) -> list[str]:
    if args.resume == "auto":
        check_last_checkpoint(cfg.work_dir)
    return refusals(cfg, args.config, "train", "val", files=not args.no_check)


def run(args: Namespace) -> int | None:
    """Train; the exit code."""
    read_urls_safely()
    cfg = prepare_training(args)
    with process_group(cfg):
        lines = gather_errors(partial(check, cfg, args)) or differing_checkpoints(cfg)
        if lines:
            return print_errors(lines)
        with explained(cfg, "train") as step:
            runner = build_runner(cfg)
            runner.register_hook(step)
            check_model(runner.model, framework(cfg))
            check_batches(runner, "train", "val")
            guard_checkpoints(runner, "train", "val", allow_mismatch=args.allow_mismatch)
            try:
                train(runner)
            except SystemExit:  # by SIGTERM; another one must not change the exit code
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise
    return None
