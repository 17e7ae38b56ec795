"""Segment photos or find objects in them: tools/predict.py CONFIG CHECKPOINT IMAGES... --out DIR.

IMAGES are files, folders and globs. With an mmseg config, DIR/labels/NAME.png holds the label of
every pixel as its grey value, as in the masks of the data set (class 0 is 0, or 1 if its masks are
read with reduce_zero_label=True), and DIR/overlays/NAME.png shows photo and labels side by side
with a legend. With an mmdet config, DIR/overlays/NAME.png shows the photo with the objects found in
it, and DIR/detections.json holds
{photo: [{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2]}, ...]}, boxes in px of the photo.
DIR/photos.json holds {photo: NAME}. A folder gives its photos with common suffixes that are not
hidden; what is left out is counted. The config's own transforms load the photos, as in testing.
A photo that cannot be read is reported at the end, with exit code 1; all other photos are done.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import Options, add_mismatch_argument
from fpn_neck.mm.config.load import Config, load_config
from fpn_neck.mm.config.sections import require_photos
from fpn_neck.mm.config.types import FRAMEWORKS, framework
from fpn_neck.mm.explain import explained
from fpn_neck.mm.predictor import Predictor
from fpn_neck.utils.command_line import command_parser
from fpn_neck.utils.files import check_folder, write_whole
from fpn_neck.utils.photo_files import find_photos, left_out_text, output_names
from fpn_neck.utils.pictures import save_labels
from fpn_neck.utils.text import one_line


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="the config the model was trained with")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("images", nargs="+", help="photos, folders with all folders in them, globs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        help="hide boxes with a lower score (default: %(default)s)",
    )
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


def build_predictor(cfg: Config, args: Namespace) -> Predictor:
    require_photos(cfg)
    scope = framework(cfg)
    if scope not in FRAMEWORKS:
        raise ValueError(f"{args.config}: default_scope is {scope!r}, expected 'mmseg' or 'mmdet'")
    model = cfg, args.checkpoint, args.device
    if scope == "mmseg":
        if args.proposals or args.rpn:
            raise ValueError("--proposals and --rpn are for an mmdet config of Fast R-CNN")
        from fpn_neck.mm.seg.predictor import SegmentationPredictor

        return SegmentationPredictor(*model, allow_mismatch=args.allow_mismatch)
    from fpn_neck.mm.det.predictor import DetectionPredictor, proposals_of_file, proposals_of_rpn

    proposal_source = None
    if args.proposals:
        proposal_source = proposals_of_file(args.proposals)
    elif args.rpn:
        config, checkpoint = args.rpn
        proposal_source = proposals_of_rpn(load_config(config), checkpoint, args.device)
    return DetectionPredictor(
        *model,
        allow_mismatch=args.allow_mismatch,
        proposal_source=proposal_source,
        score_thr=args.score_thr,
    )


def predict_photo(predictor: Predictor, image: Path, out: Path, name: str) -> list[dict] | None:
    """Write ``out/overlays/NAME.png``, and ``out/labels/NAME.png`` if there are labels.

    Returns:
        The photo's detections, if the model is a detector.
    """
    prediction = predictor(image)
    overlay = prediction.draw()
    if prediction.labels is not None:
        labels = prediction.labels.astype(np.int64) + prediction.first_value
        save = partial(save_labels, labels)
        write_whole(out / "labels" / f"{name}.png", save)
    write_whole(out / "overlays" / f"{name}.png", partial(overlay.save, format="PNG"))
    return prediction.boxes


def main() -> int:
    args = parse_args()
    tables = [args.out / "photos.json", args.out / "detections.json"]
    found = find_photos(args.images, [args.out / "labels", args.out / "overlays", *tables])
    read_urls_safely()
    predictor = build_predictor(load_config(args.config, args.cfg_options), args)
    check_folder(args.out)
    failed: list[str] = []
    names: dict[str, str] = {}
    detections: dict[str, list[dict]] = {}
    jobs = list(zip(found.photos, output_names(found.photos), strict=True))
    for image, name in track(jobs, "photos", console=Console(stderr=True)):
        try:
            with explained(predictor.cfg, "test", building=False):
                boxes = predict_photo(predictor, image, args.out, name)
        except Exception as e:  # of any type; one photo must not end the run
            failed.append(f"{image}: {one_line(e)}")
            continue
        names[str(image)] = name
        if boxes is not None:
            detections[str(image)] = boxes
    for table, content in zip(tables, (names, detections), strict=True):
        if content:
            write_whole(table, partial(Path.write_text, data=json.dumps(content)))
    print(f"{len(names)} of {len(jobs)} photos: {args.out}")
    if found.left_out:
        print(left_out_text(found))
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0
