"""Train any mmseg or mmdet config: tools/train.py CONFIG [--work-dir DIR] [--amp] ..."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from fpn_neck.checkpoints import load_checkpoint
from fpn_neck.command_line import run_tool
from fpn_neck.datasets.dataset_check import RefusedData
from fpn_neck.integrations.checkpoint_guard import CheckpointGuard
from fpn_neck.integrations.dependable import make_dependable
from fpn_neck.integrations.running import (
    add_common_arguments,
    add_mismatch_argument,
    check_data,
    check_files,
    resolve_config,
)


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
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        if args.allow_mismatch:
            raise ValueError(
                "--resume goes on with the optimiser's state, which is of the same model: "
                "--allow-mismatch goes with --cfg-options load_from=FILE instead"
            )
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    hooks = cfg.get("custom_hooks") or []
    if not any(hook["type"] == "fpn_neck.SummaryHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="fpn_neck.SummaryHook")]
    if args.tensorboard:
        cfg.visualizer.vis_backends.append(dict(type="TensorboardVisBackend"))
    make_dependable(cfg, skip_nan=args.skip_nan)


def main() -> int | None:
    args = parse_args()
    cfg = resolve_config(args)
    apply_flags(cfg, args)
    if cfg.get("load_from") and "://" not in cfg.load_from:
        load_checkpoint(cfg.load_from)  # refuses it, with the reason, before anything is built
    if not args.no_check:
        try:
            check_files(cfg, args.config, "train", "val")
        except RefusedData as refused:
            see = f"tools/check_dataset.py {args.config} shows all; --no-check trains nevertheless"
            print(*(f"error: {line}" for line in refused.brief()), see, sep="\n", file=sys.stderr)
            return 2
    check_data(cfg, "train", "val")
    runner = Runner.from_cfg(cfg)
    runner.register_hook(CheckpointGuard(args.allow_mismatch))
    runner.train()


if __name__ == "__main__":
    run_tool(main)
