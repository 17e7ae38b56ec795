"""Segment photos or find objects in them by an exported model: FILE.onnx IMAGES... --out DIR.

FILE.onnx is of fpn-neck export. Torch is not needed. IMAGES are files, folders and globs. The files
in DIR are those of predict with a checkpoint: labels/, overlays/, results.json, photos.json and, of
a detector, detections.json. Boxes are in px of the photo. A photo that cannot be read is reported
at the end, with exit code 1; all other photos are done.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from fpn_neck.export.runtime import ExportedModel
from fpn_neck.utils.command_line import command_parser
from fpn_neck.utils.photo_files import find_photos, left_out_text, output_names
from fpn_neck.utils.results.arrays import SCORE_THR
from fpn_neck.utils.results.folder import ResultsFolder
from fpn_neck.utils.text import cause, one_line


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="of fpn-neck export")
    parser.add_argument("images", nargs="+", help="photos, folders with all folders in them, globs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=SCORE_THR,
        help="hide boxes with a lower score (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    found = find_photos(args.images, ResultsFolder.outputs(args.out))
    model = ExportedModel(args.model, score_thr=args.score_thr)
    results = ResultsFolder(args.out, model.classes)
    failed: dict[str, str] = {}
    for photo, name in zip(found.photos, output_names(found.photos), strict=True):
        try:
            results.add(model.predict([photo])[0], name)
        except Exception as e:  # of any type; one photo must not end the run
            failed[str(photo)] = one_line(e) if str(e).strip() else cause(e)
    results.finish(failed)
    print(f"{len(results.names)} of {len(found.photos)} photos: {args.out}")
    if found.left_out:
        print(left_out_text(found))
    for path, error in failed.items():
        print(f"{path}: {error}", file=sys.stderr)
    return 1 if failed else 0
