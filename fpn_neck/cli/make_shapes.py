"""Write the generated shapes data set to a folder, once: fpn-neck make_shapes ROOT."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, ArgumentParser
from typing import NoReturn


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # becomes one line, without the usage


def main(argv: list[str] | None = None) -> None:
    parser = _Parser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="a new folder, or one written before")
    parser.add_argument("--train", type=int, default=600, help="number of training scenes")
    parser.add_argument("--val", type=int, default=100, help="number of validation scenes")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 320), metavar=("H", "W"), help="px"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    workers = "number of processes (default: one for each core, at most 8)"
    parser.add_argument("--workers", type=int, default=SUPPRESS, help=workers)
    args = parser.parse_args(argv)
    from rich.progress import Progress

    from fpn_neck.datasets.shapes.write import write_shapes

    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("scenes", total=args.train + args.val)
        root = write_shapes(**vars(args), progress=lambda: bar.advance(task))
    print(f"{root}: {args.train} training and {args.val} validation scenes")
