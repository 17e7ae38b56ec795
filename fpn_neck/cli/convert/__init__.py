"""Rename weights: fpn-neck convert IN OUT --from LIBRARY --to LIBRARY.

Neck, segmentation head and ResNet backbone move between mmdet, mmseg, torchvision, detectron2,
segmentation_models_pytorch (smp) and the article's decoder. `segmenter` is a folder of
Segmenter.save_pretrained (safetensors and config.json): --from mmseg --to segmenter writes the
model of a checkpoint of training, --from segmenter --to mmseg a checkpoint. Every key is reported:
mapped, ignored (other parts, such as detection heads), unmapped or missing. If a key is unmapped or
missing, the result would not be equal, and nothing is written; --allow-unmapped leaves such keys
out.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.utils.command_line import add_json_argument, command_parser
from fpn_neck.weights.key_maps import LIBRARIES

SEGMENTER = "segmenter"


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="a .pth, .safetensors or .pkl file, or a segmenter's folder",
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="a .pth file, or a segmenter's folder"
    )
    choices = (*LIBRARIES, SEGMENTER)
    parser.add_argument("--from", dest="source", required=True, choices=choices)
    parser.add_argument("--to", dest="target", required=True, choices=choices)
    parser.add_argument("--config", help="to a segmenter, of a checkpoint that holds no config")
    parser.add_argument(
        "--float16", action="store_true", help="to a segmenter: convolutions in float16"
    )
    parser.add_argument(
        "--norm",
        choices=("GN", "LN"),
        help="FPN.NORM or RESNETS.NORM of detectron2's model, if it is one of these: their weights "
        "look the same, and only GN moves",
    )
    parser.add_argument(
        "--allow-unmapped",
        action="store_true",
        help="write OUT even if keys are unmapped or missing: a start for training, not an equal "
        "model",
    )
    add_json_argument(parser, "the account of every key")
    return parser.parse_args()


def main() -> None:
    """Read the arguments; what the work needs is imported after that."""
    args = parse_args()
    from fpn_neck.cli.convert.run import run

    run(args)
