"""Put pictures into one: tools/montage.py PICTURES... --out FILE [--columns N] [--width PX]."""

from __future__ import annotations

from argparse import ArgumentParser
from functools import partial
from pathlib import Path

from PIL import Image

from fpn_neck.command_line import run_tool
from fpn_neck.files import write_whole
from fpn_neck.pictures import montage


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--width", type=int, default=1800, help="of the result, in px")
    args = parser.parse_args()
    whole = montage([Image.open(p).convert("RGB") for p in args.pictures], args.columns)
    size = args.width, whole.height * args.width // whole.width
    kind = Image.registered_extensions().get(args.out.suffix.lower(), "PNG")
    write_whole(args.out, partial(whole.resize(size, Image.Resampling.LANCZOS).save, format=kind))


if __name__ == "__main__":
    run_tool(main)
