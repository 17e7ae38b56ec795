"""Write an RPN's proposals for Fast R-CNN: fpn-neck make_proposals CONFIG CHECKPOINT --out FILE.

Every photo of the split gets its boxes, also a photo without an object. mmdet's Fast R-CNN reads
FILE as its proposal_file; FILE appears when it is complete. COCO's average recall is printed.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.mm.config.arguments import Options
from fpn_neck.utils.command_line import add_device_argument, command_parser


def parse_args() -> Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="the RPN's config: a file, or a package's: mmdet::path")
    parser.add_argument("checkpoint", help="its checkpoint file")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="a .pkl to write")
    parser.add_argument(
        "--split", choices=["train", "val"], default="val", help="default: %(default)s"
    )
    add_device_argument(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from fpn_neck.mm.checkpoint_reader import read_urls_safely
    from fpn_neck.mm.config.load import load_config
    from fpn_neck.mm.config.types import framework
    from fpn_neck.utils.progress import with_progress

    read_urls_safely()
    cfg = load_config(args.config, args.cfg_options)
    if framework(cfg) != "mmdet":
        raise ValueError(f"{args.config}: proposals come from an mmdet config of an RPN")
    from fpn_neck.mm.det.make_proposals import make_proposals

    recall = make_proposals(
        cfg,
        args.checkpoint,
        args.out,
        split=args.split,
        device=args.device,
        track=with_progress,
    )
    print("  ".join(f"{name} {value:.3f}" for name, value in recall.items()))
    print(f"proposals: {args.out}")
