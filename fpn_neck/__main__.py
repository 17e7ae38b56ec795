"""python -m fpn_neck doctor [CONFIG] [--size HxW]: what is installed, what a config makes of it."""

from __future__ import annotations

import re
from argparse import ArgumentParser

from fpn_neck.cli.doctor import diagnose, print_report
from fpn_neck.utils.command_line import run_tool


def main() -> int:
    """Exit code 0 if nothing is wrong, 1 if something is, 2 for bad usage."""
    parser = ArgumentParser(prog="python -m fpn_neck")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor = commands.add_parser("doctor", help="what is installed, and what is wrong with it")
    doctor.add_argument(
        "config", nargs="?", help="also examine this config; a file, or mmdet::path, mmseg::path"
    )
    doctor.add_argument(
        "--size", metavar="HxW", help="of the images in the pyramid table; default: the config's"
    )
    args = parser.parse_args()
    if args.size and not args.config:
        doctor.error("--size goes with a CONFIG")
    sections = diagnose(args.config, _size(args.size) if args.size else None)
    print_report(sections)
    return int(any(section.problems for section in sections))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found or not int(found[1]) * int(found[2]):
        raise ValueError(f"--size {text}: expected height x width in px, e.g. --size 800x1216")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    run_tool(main)
