"""Segment photos or find objects in them: tools/predict.py CONFIG CHECKPOINT IMAGES... --out DIR.

IMAGES are files, folders and globs. An mmseg config segments: DIR/labels/NAME.png holds the label
of every pixel as its grey value, DIR/overlays/NAME.png shows photo and labels side by side with a
legend. An mmdet config detects: DIR/overlays/NAME.png shows the photo with what was found,
DIR/detections.json says {photo: [{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2]}, ...]},
boxes in px of the photo. A photo that cannot be read is reported at the end, with exit code 1; the
others are done all the same.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from glob import glob
from itertools import chain, count
from pathlib import Path

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import Options, add_mismatch_argument
from fpn_neck.mm.config.load import load_config
from fpn_neck.mm.config.sections import require_photos
from fpn_neck.mm.explain import explained
from fpn_neck.mm.photos import read_photo
from fpn_neck.utils.files import check_folder, write_whole
from fpn_neck.utils.pictures import save_labels, side_by_side

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the config the model was trained with")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("images", nargs="+", help="photos, folders (searched in depth), globs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="draw no box below it (default: %(default)s)"
    )
    add_mismatch_argument(parser)
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument(
        "--proposals",
        metavar="FILE",
        help="Fast R-CNN's boxes: tools/make_proposals.py's, or JSON {photo: [[x1,y1,x2,y2],...]}",
    )
    boxes.add_argument(
        "--rpn", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="an RPN that gives those boxes"
    )
    return parser.parse_args()


def find_images(arguments: list[str], out: Path) -> list[Path]:
    """Files of all arguments, in their order, each once; what is under ``out`` is no photo.

    Raises:
        ValueError: an argument matches nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
        else:  # a name that exists is meant literally, whatever brackets are in it
            files = [path] if path.exists() else sorted(map(Path, glob(argument, recursive=True)))
        files = [f for f in files if f.is_file() or not f.exists()]  # no folder, no pipe
        files = [f for f in files if out.resolve() not in f.resolve().parents]
        if not files:
            raise ValueError(f"{argument}: no photos there; give files, folders or globs")
        found |= dict.fromkeys(files)
    return list(found)


def output_names(images: list[Path]) -> list[str]:
    """The photos' stems, made unique with their folder's name, then with a number."""
    names: dict[str, None] = {}
    for image in images:
        stem = image.stem
        numbered = (f"{stem}_{i}" for i in count(2))
        candidates = chain([stem, f"{image.parent.name}_{stem}"], numbered)
        names[next(c for c in candidates if c not in names)] = None
    return list(names)


# Photo's file, photo in BGR, name of its output files -> its detections, if it makes any.
Predict = Callable[[Path, np.ndarray, str], list[dict] | None]


def build_segmenter(cfg: Config, args: Namespace) -> Predict:
    if args.proposals or args.rpn:
        raise ValueError("--proposals and --rpn are for an mmdet config of Fast R-CNN")
    from fpn_neck.mm.seg.predictor import Predictor

    predictor = Predictor(cfg, args.checkpoint, args.device, allow_mismatch=args.allow_mismatch)

    def segment(image: Path, photo: np.ndarray, name: str) -> None:
        labels = predictor(photo)
        labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))  # of 8 bytes a pixel
        picture = side_by_side(
            photo[..., ::-1], {"prediction": labels}, predictor.classes, predictor.palette
        )
        write_whole(args.out / "labels" / f"{name}.png", partial(save_labels, labels))
        write_whole(args.out / "overlays" / f"{name}.png", partial(picture.save, format="PNG"))

    return segment


def build_detector(cfg: Config, args: Namespace) -> Predict:
    from fpn_neck.mm.det import predictor as mmdet

    propose = None
    if args.proposals:
        propose = mmdet.proposals_of_file(args.proposals)
    elif args.rpn:
        rpn, checkpoint = args.rpn
        propose = mmdet.proposals_of_rpn(load_config(rpn), checkpoint, args.device)
    model = mmdet.load_model(cfg, args.checkpoint, args.device, allow_mismatch=args.allow_mismatch)
    detector = mmdet.Detector(model, cfg, propose)

    def detect(image: Path, photo: np.ndarray, name: str) -> list[dict]:
        sample = detector(image, photo)
        picture = detector.draw(photo, sample, args.score_thr)
        write_whole(args.out / "overlays" / f"{name}.png", partial(picture.save, format="PNG"))
        return detector.boxes_of(sample)

    return detect


def build_predictor(cfg: Config, args: Namespace) -> Predict:
    builders = {"mmseg": build_segmenter, "mmdet": build_detector}
    scope = cfg.get("default_scope")
    if scope not in builders:
        raise ValueError(f"{args.config}: default_scope is {scope!r}, not one of {list(builders)}")
    require_photos(cfg)
    with explained(cfg, "test"):
        return builders[scope](cfg, args)


def main() -> int:
    args = parse_args()
    images = find_images(args.images, args.out)
    read_urls_safely()
    cfg = load_config(args.config, args.cfg_options)
    predict = build_predictor(cfg, args)
    check_folder(args.out)
    failed: list[str] = []
    found: dict[str, list[dict]] = {}
    jobs = list(zip(images, output_names(images), strict=True))
    for image, name in track(jobs, "photos", console=Console(stderr=True)):
        try:
            with explained(cfg, "test", building=False):
                boxes = predict(image, read_photo(image), name)
        except Exception as e:  # OpenCV's own for some files; one photo must not end the rest
            failed.append(f"{image}: {' '.join(str(e).split())}")
            continue
        if boxes is not None:
            found[str(image)] = boxes
    if found:
        text = json.dumps(found)
        write_whole(args.out / "detections.json", lambda path: path.write_text(text))
    print(f"{len(images) - len(failed)} of {len(images)} photos: {args.out}")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0
