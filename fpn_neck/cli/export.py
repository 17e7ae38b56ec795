"""Export a trained model: ONNX, OpenVINO or torch.export.

MODEL is a checkpoint of mmseg or mmdet, or a folder of Segmenter.save_pretrained. A checkpoint of
training holds its config; give CONFIG before one that doesn't. Without MODEL, the model of clothing
photos that comes with the package is exported.

The file is compared with the model each time, at four sizes if they are free. A file that gives
something else does not stay.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fpn_neck.export.metadata import FORMATS
from fpn_neck.export.parity import ParityError
from fpn_neck.export.write import export
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import Options
from fpn_neck.models.pretrained import is_pretrained
from fpn_neck.utils.command_line import command_parser, size_argument
from fpn_neck.weights.released import released_model

if TYPE_CHECKING:
    from fpn_neck.export.graphs import Exportable

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
    args = parser.parse_args()
    if len(args.model) > 2:
        parser.error("give [CONFIG] CHECKPOINT, or a segmenter's folder")
    if len(args.model) == 2 and is_pretrained(args.model[1]):
        parser.error(f"{args.model[1]} is a segmenter's folder: leave CONFIG out")
    return args


def exportable(args: Namespace) -> Exportable:
    """The model, or the part of it that is asked for."""
    if args.model and not is_pretrained(args.model[-1]):
        return exportable_of_mm(args)
    from fpn_neck.export import graphs
    from fpn_neck.models.segmenter import Segmenter

    folder = args.model[0] if args.model else released_model()
    if args.features or args.cfg_options:
        raise ValueError(f"{folder} is a segmenter's folder: leave out --features, --cfg-options")
    return graphs.segmenter(Segmenter.from_pretrained(folder), labels=args.labels)


def exportable_of_mm(args: Namespace) -> Exportable:
    """Of a model of mmseg or mmdet."""
    from fpn_neck.mm.config.in_checkpoint import read_trained
    from fpn_neck.mm.config.sections import require_photos
    from fpn_neck.mm.config.types import FRAMEWORKS, framework

    read_urls_safely()
    *config, name = args.model
    cfg, checkpoint = read_trained(name, config[0] if config else None, args.cfg_options)
    require_photos(cfg)
    scope = framework(cfg)
    if scope not in FRAMEWORKS:
        raise ValueError(
            f"{args.model[0]}: default_scope is {scope!r}, expected 'mmseg' or 'mmdet'"
        )
    if args.labels and (args.features or scope != "mmseg"):
        raise ValueError("--labels is for a segmenter, whole")
    if args.features:
        from fpn_neck.mm.export import features

        return features(cfg, checkpoint, scope)
    if scope == "mmseg":
        from fpn_neck.mm.seg import export as segmenter

        return segmenter.exportable(cfg, checkpoint, labels=args.labels)
    from fpn_neck.mm.det import export as detector

    return detector.exportable(cfg, checkpoint)


def main() -> int:
    args = parse_args()
    made = exportable(args)
    size = size_argument(args.size) if args.size else made.metadata.example_size
    if args.preprocess:
        made = made.with_preprocessing()
    try:
        parity = export(made, args.out, size, format=args.format, dynamic=args.dynamic)
    except ParityError as e:
        print(f"error: the exported model differs from the model, {e}", file=sys.stderr)
        return 1
    print(f"{args.out}: {parity}")
    if made.metadata.kind == "detection" and not parity.boxes:
        print("no boxes were found in the compared pictures", file=sys.stderr)
    return 0
