"""Write the generated shapes data set to a folder, once: ``make_shapes.py ROOT``."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from rich.progress import Progress

from fpn_neck.datasets.shapes.write import write_shapes


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")  # one line, without the usage


def main(argv: list[str] | None = None) -> int:
    parser = _Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="a new folder, or one written before")
    parser.add_argument("--train", type=int, default=600, help="number of training scenes")
    parser.add_argument("--val", type=int, default=100, help="number of validation scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    parser.add_argument("--workers", type=int, help="processes; one a core unless given")
    args = parser.parse_args(argv)
    try:
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("scenes", total=args.train + args.val)
            root = write_shapes(**vars(args), progress=lambda: bar.advance(task))
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{root}: {args.train} training and {args.val} validation scenes")
    return 0
