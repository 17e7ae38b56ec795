"""How many labels tiles change: tools/compare_tiles.py CONFIG CHECKPOINT PHOTOS... [--tile PX].

Every photo is segmented whole, which takes the memory that tiles save, and in tiles. How far a
backbone looks decides; a photo is as large as the config's test pipeline makes it.
"""

from __future__ import annotations

import copy
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction

from fpn_neck.command_line import run_tool
from fpn_neck.integrations.running import load_config
from fpn_neck.photos import read_photo
from fpn_neck.tiles import TILE


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="of mmseg, that the model was trained with")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--tile", type=int, default=TILE, help="px a side (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def with_tiles(cfg: Config, tile: int | None) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "tile": tile}
    return cfg


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get("default_scope") != "mmseg":
        raise ValueError(f"{args.config}: default_scope is not mmseg; only segmenters see tiles")
    from fpn_neck.integrations.mmseg import Predictor

    whole, tiled = (
        Predictor(with_tiles(cfg, tile), args.checkpoint, args.device) for tile in (None, args.tile)
    )
    for path in args.photos:
        photo = read_photo(path)
        size, share = "{}x{}".format(*photo.shape), np.mean(whole(photo) == tiled(photo))
        print(f"{path}: {100 * share:.4f} % of {size} px alike", flush=True)


if __name__ == "__main__":
    run_tool(main)
