"""Evaluate a checkpoint of any mmseg or mmdet config: fpn-neck test CONFIG CHECKPOINT."""

from __future__ import annotations

from argparse import Namespace

from fpn_neck.mm.before_run import refusals
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.mm.distributed.launch import process_group
from fpn_neck.mm.explain import explained
from fpn_neck.mm.prepare import build_runner, check_output, prepare_testing
from fpn_neck.mm.training.batches import check_batches
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.utils.command_line import command_parser


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
    add_mismatch_argument(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    read_urls_safely()
    cfg = prepare_testing(args)
    refusals(cfg, args.config, "test", files=False)
    with process_group(cfg), explained(cfg, "test") as step:
        runner = build_runner(cfg)
        runner.register_hook(step)
        check_batches(runner, "test")
        guard_checkpoints(runner, "test", allow_mismatch=args.allow_mismatch)
        check_output(runner)
        runner.test()
