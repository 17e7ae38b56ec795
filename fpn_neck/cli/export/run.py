"""The model that is exported, and the file that is made of it."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from fpn_neck.export.parity import ParityError
from fpn_neck.export.write import export
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.models.pretrained import is_pretrained
from fpn_neck.utils.command_line import size_argument
from fpn_neck.weights.released import released_model

if TYPE_CHECKING:
    from fpn_neck.export.graphs import Exportable


def exportable(args: Namespace) -> Exportable:
    """The model, or the part of it that is asked for."""
    if args.model and not is_pretrained(args.model[-1]):
        return exportable_of_mm(args)
    from fpn_neck.export import graphs
    from fpn_neck.models.segmenter import Segmenter

    folder = args.model[0] if args.model else released_model()
    if args.features or args.cfg_options:
        raise ValueError(f"{folder} is a segmenter's folder: leave out --features, --cfg-options")
    return graphs.segmenter(Segmenter.from_pretrained(folder), labels=args.labels)


def exportable_of_mm(args: Namespace) -> Exportable:
    """Of a model of mmseg or mmdet."""
    from fpn_neck.mm.config.in_checkpoint import read_trained
    from fpn_neck.mm.config.sections import require_photos
    from fpn_neck.mm.config.types import FRAMEWORKS, framework

    read_urls_safely()
    *config, name = args.model
    cfg, checkpoint = read_trained(name, config[0] if config else None, args.cfg_options)
    require_photos(cfg)
    scope = framework(cfg)
    if scope not in FRAMEWORKS:
        raise ValueError(
            f"{args.model[0]}: default_scope is {scope!r}, expected 'mmseg' or 'mmdet'"
        )
    if args.labels and (args.features or scope != "mmseg"):
        raise ValueError("--labels is for a segmenter, whole")
    if args.features:
        from fpn_neck.mm.export import features

        return features(cfg, checkpoint, scope)
    if scope == "mmseg":
        from fpn_neck.mm.seg import export as segmenter

        return segmenter.exportable(cfg, checkpoint, labels=args.labels)
    from fpn_neck.mm.det import export as detector

    return detector.exportable(cfg, checkpoint)


def run(args: Namespace) -> int:
    """Export, and compare; the exit code."""
    if len(args.model) > 2:
        raise ValueError("give [CONFIG] CHECKPOINT, or a segmenter's folder")
    if len(args.model) == 2 and is_pretrained(args.model[1]):
        raise ValueError(f"{args.model[1]} is a segmenter's folder: leave CONFIG out")
    made = exportable(args)
    size = size_argument(args.size) if args.size else made.metadata.example_size
    if args.preprocess:
        made = made.with_preprocessing()
    try:
        parity = export(made, args.out, size, format=args.format, dynamic=args.dynamic)
    except ParityError as e:
        print(f"error: the exported model differs from the model, {e}", file=sys.stderr)
        return 1
    print(f"{args.out}: {parity}")
    if not args.dynamic and not made.metadata.exact:
        height, width = size
        print(
            f"{args.out} takes only images of {height}x{width} px: give the size that your photos "
            "get in the model by --size, or leave it free by --dynamic",
            file=sys.stderr,
        )
    if made.metadata.kind == "detection" and not parity.boxes:
        print("no boxes were found in the compared pictures", file=sys.stderr)
    return 0
