"""Segment photos or find objects in them by an exported model: FILE.onnx IMAGES... [--out DIR].

FILE.onnx is of fpn-neck export. Torch is not needed. IMAGES are files, folders and globs. The files
in DIR are those of predict with a checkpoint: labels/, overlays/, results.json, photos.json and, of
a detector, detections.json. Boxes are in px of the photo. A photo that cannot be read is reported
at the end, with exit code 1; all other photos are done.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.cli.predict.run import add_output_arguments, run
from fpn_neck.export.runtime import ExportedModel
from fpn_neck.utils.command_line import command_parser


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="of fpn-neck export")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="photos: files, folders with all folders in them, globs",
    )
    add_output_arguments(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    return run(args, lambda: ExportedModel(args.model, score_thr=args.score_thr))
