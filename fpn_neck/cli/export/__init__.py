"""Export a trained model: ONNX, OpenVINO or torch.export.

MODEL is a checkpoint of mmseg or mmdet, or a folder of Segmenter.save_pretrained. A checkpoint of
training holds its config; give CONFIG before one that doesn't. Without MODEL, the model of clothing
photos that comes with the package is exported.

The file is compared with the model each time, at four sizes if they are free. A file that gives
something else does not stay.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.export.metadata import FORMATS
from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import command_parser

_EPILOG = """\
The input is "images": float32 (N, 3, H, W), normalised; with --preprocess uint8 (N, H, W, 3), RGB.
The outputs are, of a segmenter, "logits" (N, K, H, W) or with --labels "labels" (N, H, W); of a
detector, for one photo, "boxes" (n, 4) in px of the input, "scores", "labels", and "masks"; with
--features "p2", "p3", ... Names, colours, mean, std and the rule for the size of a photo are in the
file. fpn-neck predict FILE.onnx PHOTOS needs no torch.

exit code: 0 done; 1 the exported model gives something else than the model; 2 wrong usage, or a
model that can't be exported."""


def parse_args() -> Namespace:
    parser = command_parser(__doc__, _EPILOG)
    parser.add_argument(
        "model",
        nargs="*",
        metavar="[CONFIG] MODEL",
        help="config (if the checkpoint holds none), and checkpoint; or a segmenter's folder",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="what to write")
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        default="onnx",
        help="FILE.onnx (default), FILE.xml with FILE.bin, FILE.pt2",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="batch, height and width are free; else fixed"
    )
    parser.add_argument("--labels", action="store_true", help="of a segmenter, instead of logits")
    parser.add_argument("--preprocess", action="store_true", help="take pixels: uint8, RGB")
    parser.add_argument("--features", action="store_true", help="export only backbone and neck")
    parser.add_argument(
        "--size", metavar="HxW", help="of the input in px; default: the config's, else 512x512"
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> int:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.export.run import run

    return run(args)
