"""The arguments of both ways to predict; nothing but Python is needed to read them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fpn_neck.mm.config.arguments import Options, add_mismatch_argument
from fpn_neck.utils.command_line import add_device_argument, add_json_argument, command_parser
from fpn_neck.utils.results.options import OPACITY, OVERLAYS, SCORE_THR

OUT = Path("predictions")
_TRAINED = """\
Segment photos or find objects in them: fpn-neck predict [[CONFIG] MODEL] IMAGES...

MODEL is a checkpoint of mmseg or mmdet, or a folder of Segmenter.save_pretrained. A checkpoint of
training holds its config; give CONFIG before one that doesn't. Without MODEL, the model of clothing
photos that comes with the package is used. IMAGES are files, folders and globs.
A folder gives its photos with common suffixes that are not hidden; what is left out is counted. The
config's own transforms load the photos, as in testing.

  DIR/labels/NAME.png     the label of every pixel, as in the masks of the data set (class 0 is 0,
                          or 1 if its masks are read with reduce_zero_label=True). People see the
                          colours of the classes, programs read the numbers (PIL's mode P); of more
                          than 256 labels a grey PNG of 16 bits
  DIR/overlays/NAME.png   labels with a legend beside the photo, or the photo with the objects
  DIR/panoptic/NAME.png   the segment of every pixel, as COCO has it: R + 256 G + 65536 B
  DIR/results.json        for every photo: its files, size, areas in px, objects with box, score
                          and mask (COCO's run lengths), segments
  DIR/photos.json         {photo: NAME}
  DIR/detections.json     {photo: [{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2]}, ...]}
  DIR/coco/               with --coco: bbox.json, segm.json or panoptic.json, and instances.json,
                          which lists the photos and categories that they refer to

Boxes are in px of the photo. A photo that cannot be read is reported at the end, with exit code 1;
all other photos are done. The tables are of this run; pictures of earlier runs stay.
"""
_EXPORTED = """\
Segment photos or find objects in them by an exported model: FILE.onnx IMAGES... [--out DIR].

FILE.onnx is of fpn-neck export. Torch is not needed. IMAGES are files, folders and globs. The files
in DIR are those of predict with a checkpoint: labels/, overlays/, results.json, photos.json and, of
a detector, detections.json. Boxes are in px of the photo. A photo that cannot be read is reported
at the end, with exit code 1; all other photos are done.
"""


def parse_trained() -> Namespace:
    """For a checkpoint, or a segmenter's folder."""
    parser = command_parser(_TRAINED)
    parser.add_argument(
        "model",
        nargs="+",
        metavar="[[CONFIG] MODEL] IMAGES",
        help="config (if the checkpoint holds none), checkpoint (default: the package's model), "
        "photos: files, folders with all folders in them, globs",
    )
    add_output_arguments(parser)
    add_device_argument(parser)
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="photos at a time (1)")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's; of a folder, three sizes and mirror images",
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    add_mismatch_argument(parser)
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument(
        "--proposals",
        metavar="FILE",
        help="boxes for Fast R-CNN, from make_proposals, or JSON {photo: [[x1,y1,x2,y2],...]}",
    )
    boxes.add_argument(
        "--rpn",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="an RPN for Fast R-CNN's boxes",
    )
    return parser.parse_args()


def parse_exported() -> Namespace:
    """For an ONNX file."""
    parser = command_parser(_EXPORTED)
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="of fpn-neck export")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="photos: files, folders with all folders in them, globs",
    )
    add_output_arguments(parser)
    return parser.parse_args()


def add_output_arguments(parser: ArgumentParser) -> None:
    """The arguments that `fpn_neck.cli.predict.run.write_results` reads, but for ``images``."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where to write (default: {OUT}, and with --json nowhere)",
    )
    add_json_argument(parser, "the content of results.json")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=SCORE_THR,
        help="objects with a lower score are neither drawn nor in areas (default: %(default)s)",
    )
    parser.add_argument(
        "--overlay", choices=OVERLAYS, help="default: labels side-by-side, objects alone"
    )
    parser.add_argument(
        "--opacity", type=float, default=OPACITY, help="of colours, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--coco",
        nargs="?",
        const=True,
        type=Path,
        metavar="FILE",
        help="write COCO's result files; with the ids of photos and categories of a COCO FILE, "
        "else from 1 on",
    )
