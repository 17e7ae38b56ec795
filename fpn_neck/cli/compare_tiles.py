"""How many labels tiles change: fpn-neck compare_tiles CONFIG CHECKPOINT PHOTOS... [--tile PX].

Every photo is segmented in tiles, and as a whole, which takes the memory that tiles save. The
result depends on the backbone's receptive field. The config's test pipeline decides how large a
photo is; one that is not taken in tiles is named. A photo that cannot be read is reported at the
end, with exit code 1.
"""

from __future__ import annotations

import copy
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import add_device_argument, command_parser

if TYPE_CHECKING:
    from fpn_neck.mm.config.load import Config


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="the mmseg config the model was trained with")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--tile", type=int, metavar="PX", help="default: as in predict")
    add_device_argument(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def set_tile(cfg: Config, tile: int | None) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "tile": tile}
    return cfg


def main() -> int:
    args = parse_args()
    import numpy as np

    from fpn_neck.mm.checkpoint_reader import read_urls_safely
    from fpn_neck.mm.config.load import load_config
    from fpn_neck.mm.config.sections import require_photos
    from fpn_neck.mm.config.types import framework
    from fpn_neck.models.tiled_head import PHOTO_TILE
    from fpn_neck.utils.photos import PhotoError

    read_urls_safely()
    cfg = load_config(args.config, args.cfg_options)
    if framework(cfg) != "mmseg":
        raise ValueError(f"{args.config}: default_scope must be mmseg: only segmenters take tiles")
    require_photos(cfg)
    tile = (cfg.model.get("test_cfg") or {}).get("tile", PHOTO_TILE)
    tile = tile if args.tile is None else args.tile
    mode = (cfg.model.get("test_cfg") or {}).get("mode", "whole")
    if mode != "whole":
        raise ValueError(f"{args.config}: test_cfg.mode={mode!r} takes no tiles; set 'whole'")
    if tile is None:
        raise ValueError(
            f"{args.config}: test_cfg.tile is None, which turns tiles off; give --tile"
        )
    from fpn_neck.mm.seg.predictor import SegmentationPredictor

    whole, tiled = (
        SegmentationPredictor(set_tile(cfg, one), args.checkpoint, args.device)
        for one in (None, tile)
    )
    parts: list[bool] = []  # the backbone runs once for a photo, or once for a tile
    tiled.model.backbone.register_forward_pre_hook(lambda *_: parts.append(True))
    failed: list[str] = []
    for path in args.photos:
        parts.clear()
        try:
            in_tiles = np.asarray(tiled.predict([path])[0].labels)
            if len(parts) == 1:
                print(f"{path}: not in tiles, nothing to compare", flush=True)
                continue
            labels = np.asarray(whole.predict([path])[0].labels)
        except PhotoError as e:
            failed.append(f"{path}: {e}")
            continue
        share, (height, width) = np.mean(labels == in_tiles), labels.shape
        print(f"{path}: {100 * share:.4f} % of {height}x{width} px alike", flush=True)
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0
