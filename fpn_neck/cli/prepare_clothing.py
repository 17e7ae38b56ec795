"""Check the clothing photos, convert them if need be, and write COCO instances for detectors."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from fpn_neck.datasets.clothing.check import RefusedData
from fpn_neck.datasets.clothing.layout import CLASSES
from fpn_neck.datasets.clothing.prepare import TINY, prepare

DESCRIPTION = """\
SOURCE is either the authors' repository (https://github.com/bearpaw/clothing-co-parsing), which is
converted to the layout of Kaggle's "People Clothing Segmentation" under --out, or a folder in that
layout, which is checked and left as it is. Both get annotations/instances_{train,val}.json."""

EPILOG = f"""\
instances: the connected components (8 neighbours) of each of the {len(CLASSES) - 1} labels but
null. Those of fewer than {TINY} pixels get iscrowd=1, so that COCO's metrics ignore them. Shoes
that touch are one instance, a dress cut in two by an arm is two.

exit code: 0 done; 1 the data would poison training (listed, nothing written); 2 wrong usage."""


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("source", type=Path, metavar="SOURCE", help="folder with the data")
    result.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write; needed for the authors' repository, else SOURCE unless given",
    )
    result.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one a core)",
    )
    return result


def progress(results, total):
    console = Console(stderr=True)
    return track(results, description="photos", total=total, console=console)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        done = prepare(args.source, args.out, workers=args.workers, track=progress)
    except RefusedData as refused:
        print(refused.report())
        print("Nothing was written.")
        return 1
    except (ValueError, OSError) as error:
        print(f"prepare_clothing.py: {error}", file=sys.stderr)
        return 2
    if done.unlabelled:
        print(f"{done.unlabelled} photos without pixel labels were left out")
    for name in done.empty:
        print(f"{name}: taken, though its mask is null everywhere")
    print(
        f"{sum(done.photos.values())} photos ({done.photos['train']} train, "
        f"{done.photos['val']} val), {done.instances} instances, {done.tiny} of them tiny: "
        f"{done.out / 'annotations'}"
    )
    return 0
