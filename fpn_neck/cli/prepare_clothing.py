"""Check the clothing photos, convert them if necessary, and write COCO instances."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.datasets.clothing.layout import CLASSES, TINY
from fpn_neck.utils.command_line import add_workers_argument, command_parser
from fpn_neck.utils.values import check_whole

DESCRIPTION = """\
SOURCE is either the authors' repository (https://github.com/bearpaw/clothing-co-parsing), which is
converted to the layout of Kaggle's "People Clothing Segmentation" under --out, or a folder in that
layout, which is checked and not changed. Both get annotations/instances_{train,val}.json."""

EPILOG = f"""\
instances: the connected components (8 neighbours) of each of the {len(CLASSES) - 1} labels but
null. Those of fewer than {TINY} pixels get iscrowd=1, so that COCO's metrics ignore them. Shoes
that touch are one instance; a dress that an arm cuts in two is two.

exit code: 0 done; 1 the data would spoil training (listed, nothing written); 2 wrong usage."""


def parse_args(argv: list[str] | None) -> Namespace:
    parser = command_parser(DESCRIPTION, EPILOG)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder with the data")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write; required for the authors' repository (default: SOURCE)",
    )
    add_workers_argument(parser)
    args = parser.parse_args(argv)
    check_whole("--workers", args.workers, 1)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from fpn_neck.datasets.check.findings import RefusedData
    from fpn_neck.datasets.clothing.prepare import prepare
    from fpn_neck.utils.progress import with_progress

    try:
        done = prepare(args.source, args.out, workers=args.workers, track=with_progress)
    except RefusedData as refused:
        print(refused.report())
        print("Nothing was written.")
        return 1
    if done.unlabelled:
        print(f"{done.unlabelled} photos without pixel labels were left out")
    for name in done.empty:
        print(f"{name}: taken, although its mask is null everywhere")
    print(
        f"{sum(done.photos.values())} photos ({done.photos['train']} train, "
        f"{done.photos['val']} val), {done.instances} instances, {done.tiny} of them tiny: "
        f"{done.out / 'annotations'}"
    )
    return 0
