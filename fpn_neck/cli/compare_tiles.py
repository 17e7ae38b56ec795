"""How many labels tiles change: tools/compare_tiles.py CONFIG CHECKPOINT PHOTOS... [--tile PX].

Every photo is segmented whole, which takes the memory that tiles save, and in tiles. How far a
backbone looks decides; a photo is as large as the config's test pipeline makes it. One that cannot
be read is reported at the end, with exit code 1.
"""

from __future__ import annotations

import copy
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
from mmengine.config import Config

from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import Options
from fpn_neck.mm.config.load import load_config
from fpn_neck.mm.config.sections import require_photos
from fpn_neck.mm.explain import explained
from fpn_neck.mm.photos import read_photo
from fpn_neck.models.tiled_head import PHOTO_TILE


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="of mmseg, that the model was trained with")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument(
        "--tile", type=int, default=PHOTO_TILE, help="px a side (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def with_tiles(cfg: Config, tile: int | None) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "tile": tile}
    return cfg


def main() -> int:
    args = parse_args()
    read_urls_safely()
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get("default_scope") != "mmseg":
        raise ValueError(f"{args.config}: default_scope is not mmseg; only segmenters see tiles")
    require_photos(cfg)
    from fpn_neck.mm.seg.predictor import Predictor

    with explained(cfg, "test"):
        configs = [with_tiles(cfg, tile) for tile in (None, args.tile)]
        whole, tiled = (Predictor(each, args.checkpoint, args.device) for each in configs)
    failed: list[str] = []
    for path in args.photos:
        try:
            photo = read_photo(path)
        except Exception as e:  # OpenCV's own for some files
            failed.append(f"{path}: {' '.join(str(e).split())}")
            continue
        with explained(cfg, "test", building=False):
            size, share = "{}x{}".format(*photo.shape), np.mean(whole(photo) == tiled(photo))
        print(f"{path}: {100 * share:.4f} % of {size} px alike", flush=True)
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0
