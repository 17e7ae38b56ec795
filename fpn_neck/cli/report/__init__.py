"""Write an HTML page about a trained segmenter: fpn-neck report WORK_DIR [--out FILE].

The page shows metrics, curves, the IoU of every label, the confusion matrix, and the best and the
worst photos. It is one file, which needs no network. The photos are those of the config's
test_dataloader, and they are inside the page.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import command_parser


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("work_dir", type=Path, help="of a training: config, checkpoint and logs")
    parser.add_argument("--config", help="default: the only .py file in WORK_DIR")
    parser.add_argument("--checkpoint", help="default: the best one in WORK_DIR, else the last one")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: WORK_DIR/report.html")
    parser.add_argument(
        "--photos", type=int, default=4, help="best and worst ones (default: %(default)s each)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.report.run import run

    run(args)
