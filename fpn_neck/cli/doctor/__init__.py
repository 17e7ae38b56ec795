"""Examine what is installed and what a config makes of it; name what is wrong."""

from __future__ import annotations

from argparse import Namespace

from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import add_json_argument, command_parser


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "config", nargs="?", help="also examine this config; a file, or mmdet::path, mmseg::path"
    )
    parser.add_argument(
        "--size", metavar="HxW", help="of the images in the pyramid table; default: the config's"
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    add_json_argument(parser, "the report")
    parser.add_argument(
        "--serve-ops",
        choices=("on", "off"),
        help="only write (or remove) one line in the installed mmcv-lite, mmcv/_ext.py: mmdet and "
        "mmseg then find its operators without import fpn_neck",
    )
    args = parser.parse_args()
    if (args.size or args.cfg_options) and not args.config:
        parser.error("--size and --cfg-options go with a CONFIG")
    return args


def main() -> int:
    """Read the arguments; what the work needs is imported after that.

    Exit code 0 if nothing is wrong, 1 if something is, 2 for bad usage.
    """
    args = parse_args()
    from fpn_neck.cli.doctor.run import run

    return run(args)
