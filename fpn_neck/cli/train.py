"""Train any mmseg or mmdet config: tools/train.py CONFIG [--work-dir DIR] [--amp] ..."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace
from functools import partial

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import find_latest_checkpoint

from fpn_neck.datasets.check.findings import RefusedData
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.mm.config.data_sources import check_data, check_files
from fpn_neck.mm.config.explain_build import building
from fpn_neck.mm.config.explain_memory import memory_advice
from fpn_neck.mm.config.load import resolve_config
from fpn_neck.mm.distributed.consensus import (
    differing_checkpoints,
    gather_errors,
    print_errors,
)
from fpn_neck.mm.distributed.launch import adapt_to_launcher, process_group
from fpn_neck.mm.last_checkpoint import check_last_checkpoint, last_checkpoint
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.mm.training.install_hooks import install_hooks
from fpn_neck.mm.training.restoring_hook import train
from fpn_neck.weights.checkpoints import load_checkpoint


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (GPU)")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without a value, from the last one in the work dir",
    )
    parser.add_argument(
        "--skip-nan", action="store_true", help="drop batches whose loss is NaN or infinite"
    )
    parser.add_argument(
        "--no-check", action="store_true", help="train whatever a glance at the data would find"
    )
    parser.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard")
    add_mismatch_argument(parser)
    return parser.parse_args()


def apply_flags(cfg: Config, args: Namespace) -> None:
    if args.amp:
        if not torch.cuda.is_available():
            raise ValueError("--amp: mmengine's AmpOptimWrapper needs a GPU, and none is there")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        set_start(cfg, args)
    hooks = cfg.get("custom_hooks") or []
    if not any(hook["type"] == "fpn_neck.SummaryHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="fpn_neck.SummaryHook")]
    if args.tensorboard:
        local = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
        cfg.visualizer = cfg.get("visualizer") or local
        others = cfg.visualizer.get("vis_backends") or []
        cfg.visualizer.vis_backends = [*others, dict(type="TensorboardVisBackend")]
    install_hooks(cfg, skip_nan=args.skip_nan)


def set_start(cfg: Config, args: Namespace) -> None:
    """Where ``--resume`` goes on; `refusals` finds out whether that is possible."""
    if not args.resume.strip():
        raise ValueError(
            "--resume '' is empty (a variable that isn't set?): give a checkpoint, or --resume "
            "alone for the last one in the work dir"
        )
    if args.allow_mismatch:
        raise ValueError(
            "--resume goes on with the optimiser's state, which is of the same model: "
            "--allow-mismatch goes with --cfg-options load_from=FILE instead"
        )
    last = last_checkpoint(cfg.work_dir)
    if args.resume != "auto":
        cfg.resume, cfg.load_from = True, args.resume
    elif last or not cfg.get("load_from"):
        # mmengine finds the last one itself, but not in a work dir that was moved.
        cfg.resume, cfg.load_from = True, None
        if last and last != find_latest_checkpoint(cfg.work_dir):
            cfg.load_from = last
    # else nothing is there yet, and the run starts from the config's weights


def refusals(cfg: Config, args: Namespace) -> list[str]:
    """What stops this run before anything is built, a line each; a single one may be raised."""
    if args.resume == "auto":
        check_last_checkpoint(cfg.work_dir)
    if cfg.get("load_from") and "://" not in cfg.load_from:
        load_checkpoint(cfg.load_from)
    if not args.no_check:
        try:
            check_files(cfg, args.config, "train", "val")
        except RefusedData as refused:
            see = f"tools/check_dataset.py {args.config} shows all; --no-check trains nevertheless"
            return [*(f"error: {line}" for line in refused.brief()), see]
    check_data(cfg, "train", "val")
    return []


def main() -> int | None:
    args = parse_args()
    read_urls_safely()
    cfg = resolve_config(args)
    apply_flags(cfg, args)
    adapt_to_launcher(cfg)
    with process_group(cfg):
        lines = gather_errors(partial(refusals, cfg, args)) or differing_checkpoints(cfg)
        if lines:
            return print_errors(lines)
        with building(cfg), memory_advice(cfg):
            runner = RUNNERS.build(cfg)
            guard_checkpoints(runner, allow_mismatch=args.allow_mismatch)
            try:
                train(runner)
            except SystemExit:  # by SIGTERM; another one must not change the exit code
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise
