"""Check the data of an mmseg or mmdet config: fpn-neck check CONFIG [--json FILE] ..."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.datasets.check.kinds import RARE
from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import add_workers_argument, command_parser

SPLITS = ("train", "val", "test")
STDOUT = Path("-")
EPILOG = f"""\
Every photo and mask is decoded as in training, and every annotation is read. The config's heads and
class weights are compared with the data. A class is called rare if it occurs in one photo only or
in at most {100 * RARE:g} % of them.

exit code: 0 nothing found; 1 findings, each with file, value, rule and remedy; 2 wrong usage."""


def parse_args() -> Namespace:
    parser = command_parser(__doc__, EPILOG)
    parser.add_argument("config", help="config file, or one of an installed package: mmdet::path")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: all in the config"
    )
    add_workers_argument(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        type=Path,
        metavar="FILE",
        help="write the report as JSON too; without FILE on stdout, and what people read on stderr",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="files shown per kind of finding (20)",
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> int:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.check.run import run

    return run(args)
