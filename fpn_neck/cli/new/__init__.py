"""Write a config for your own photos: fpn-neck new segmentation | detection ..."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fpn_neck.datasets.own.recipe import MODELS
from fpn_neck.utils.command_line import command_parser

_EPILOG = """\
It looks at the files, chooses classes, sizes and steps, makes a fixed split (one photo in eight is
for validation), and writes a short config that fpn-neck train takes. Annotations in other formats
than COCO: supervision (pip install supervision) converts them.
"""


def parse_args() -> Namespace:
    parser = command_parser(__doc__, _EPILOG)
    tasks = parser.add_subparsers(dest="task", required=True)
    one = tasks.add_parser("segmentation", help="from folders of photos and masks")
    one.add_argument("--images", required=True, type=Path, metavar="DIR", help="photos")
    one.add_argument(
        "--masks", required=True, type=Path, metavar="DIR", help="masks, named like their photos"
    )
    one.add_argument("--classes", metavar="A,B,C", help="names of the labels 0, 1, 2, ...")
    one.add_argument(
        "--table",
        type=Path,
        metavar="CSV",
        help="lines name,r,g,b or name,value; 'ignore' is no class",
    )
    one.add_argument("--backbone", metavar="NAME", help="timm's name; default: EfficientNet-lite0")
    one.add_argument("--weights", metavar="FILE", help="of the backbone, for --backbone")
    two = tasks.add_parser("detection", help="from a folder of photos and a COCO file")
    two.add_argument("--photos", required=True, type=Path, metavar="DIR")
    two.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="COCO")
    two.add_argument("--model", choices=sorted(MODELS), default="faster-rcnn")
    for task in (one, two):
        _add_out(task)
    return parser.parse_args()


def _add_out(parser: ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.py", help="the config")
    parser.add_argument("--force", action="store_true", help="replace FILE.py")


def main() -> None:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.new.run import run

    run(args)
