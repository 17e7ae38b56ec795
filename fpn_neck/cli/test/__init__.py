"""Evaluate a checkpoint of any mmseg or mmdet config: fpn-neck test CONFIG CHECKPOINT."""

from __future__ import annotations

from argparse import Namespace

from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.utils.command_line import add_json_argument, command_parser


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
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.test.run import run

    run(args)
