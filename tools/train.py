"""Train any mmseg or mmdet config: tools/train.py CONFIG [--work-dir DIR] [--amp] ..."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from fpn_neck.checkpoints import load_checkpoint
from fpn_neck.command_line import run_tool
from fpn_neck.integrations.running import add_common_arguments, check_data, resolve_config


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
    parser.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard")
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
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    hooks = cfg.get("custom_hooks") or []
    if not any(hook["type"] == "fpn_neck.SummaryHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="fpn_neck.SummaryHook")]
    if args.tensorboard:
        cfg.visualizer.vis_backends.append(dict(type="TensorboardVisBackend"))


def main() -> None:
    args = parse_args()
    cfg = resolve_config(args)
    apply_flags(cfg, args)
    if cfg.get("resume") and cfg.load_from:
        load_checkpoint(cfg.load_from)  # refuses it, with the reason, before anything is built
    check_data(cfg, "train", "val")
    Runner.from_cfg(cfg).train()


if __name__ == "__main__":
    run_tool(main)
