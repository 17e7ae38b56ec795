"""Segment photos or find objects in them: fpn-neck predict [[CONFIG] MODEL] IMAGES... [--out DIR].

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
all other photos are done.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fpn_neck.cli.predict.run import add_output_arguments, run
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import Options, add_mismatch_argument
from fpn_neck.mm.predict.load import EXPORTED, load, refuse_exported
from fpn_neck.models.pretrained import is_pretrained
from fpn_neck.utils.command_line import add_device_argument, command_parser
from fpn_neck.utils.results.predictor import Predictor
from fpn_neck.utils.values import check_whole
from fpn_neck.weights.released import released_model

if TYPE_CHECKING:
    from fpn_neck.mm.det.predictor import ProposalSource

_CHECKPOINTS = {".pth", ".pt", ".ckpt", ".pkl", ".safetensors"}
_MAGIC = b"PK", b"\x80"  # of torch's files: a zip file, and the pickles of old versions
_CONFIGS = {".py", ".json", ".yaml", ".yml"}


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
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
    parser.add_argument("--tta", action="store_true", help="test-time augmentation, as in test")
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
    args = parser.parse_args()
    first = args.model[0]
    has_config = "::" in first or Path(first).suffix in _CONFIGS
    args.config = args.model.pop(0) if has_config else None
    if not has_config and not _is_model(first):
        args.model.insert(0, str(released_model()))
    if len(args.model) < 2:
        parser.error("give photos: [[CONFIG] MODEL] IMAGES...")
    args.checkpoint, *args.images = args.model
    return args


def _is_model(name: str) -> bool:
    """A checkpoint, by its suffix or its first bytes, or a segmenter's folder; else photos."""
    path = Path(name)
    if path.suffix.lower() in (*_CHECKPOINTS, *EXPORTED) or is_pretrained(name):
        return True
    if (path / "last_checkpoint").is_file():
        raise ValueError(f"{name} is the folder of a training: name a checkpoint in it")
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2).startswith(_MAGIC)


def load_predictor(args: Namespace) -> Predictor:
    """The predictor of the model that is named."""
    if not args.config and is_pretrained(args.checkpoint):
        if args.tta or args.proposals or args.rpn or args.cfg_options:
            is_default = args.checkpoint == str(released_model())
            name = "the package's model" if is_default else args.checkpoint
            raise ValueError(
                f"{name} is a segmenter's folder: --tta, --proposals, --rpn and "
                "--cfg-options are for checkpoints of mmseg and mmdet"
            )
        return load(args.checkpoint, device=args.device)
    refuse_exported(args.checkpoint)
    from fpn_neck.mm.predict.build import build_predictor  # it needs OpenMMLab

    read_urls_safely()
    return build_predictor(
        args.checkpoint,
        args.config,
        args.device,
        options=args.cfg_options,
        allow_mismatch=args.allow_mismatch,
        proposals=make_proposals(args) if args.proposals or args.rpn else None,
        score_thr=args.score_thr,
        tta=args.tta,
    )


def make_proposals(args: Namespace) -> Callable[[], ProposalSource]:
    """What makes the source of Fast R-CNN's boxes, once the config is known to be mmdet's."""

    def make() -> ProposalSource:
        from fpn_neck.mm.det.predictor import proposals_of_file, proposals_of_rpn

        if args.proposals:
            return proposals_of_file(args.proposals)
        from fpn_neck.mm.config.load import load_config

        config, checkpoint = args.rpn
        return proposals_of_rpn(load_config(config), checkpoint, args.device)

    return make


def main() -> int:
    args = parse_args()
    batch = check_whole("--batch", args.batch, 1)
    return run(args, lambda: load_predictor(args), batch=batch)
