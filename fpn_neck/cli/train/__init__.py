"""Train any mmseg or mmdet config: fpn-neck train CONFIG [--work-dir DIR] [--amp [DTYPE]] ..."""

from __future__ import annotations

from argparse import Namespace

from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.utils.command_line import command_parser


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    add_common_arguments(parser)
    parser.add_argument(
        "--amp",
        nargs="?",
        const=True,
        choices=["float16", "bfloat16"],
        help="automatic mixed precision: bfloat16, or float16 (the default), which scales the loss "
        "and needs a GPU",
    )
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
    parser.add_argument("--no-check", action="store_true", help="skip the quick data check")
    parser.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard")
    add_mismatch_argument(parser)
    return parser.parse_args()


def main() -> int | None:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.train.run import run

    return run(args)
