"""Segment photos or find objects in them: fpn-neck predict [[CONFIG] MODEL] IMAGES..."""

from __future__ import annotations

import sys
from itertools import pairwise

from fpn_neck.cli.predict.arguments import parse_exported, parse_trained


def main() -> int:
    """Read the arguments for the kind of model; what the work needs is imported after that."""
    words = [word for before, word in pairwise(sys.argv) if before != "--out"]
    if any(word.endswith(".onnx") and not word.startswith("--out=") for word in words):
        args = parse_exported()
        from fpn_neck.cli.predict.run import write_results
        from fpn_neck.export.runtime import ExportedModel  # torch is not needed

        return write_results(args, lambda: ExportedModel(args.model, score_thr=args.score_thr))
    args = parse_trained()
    from fpn_neck.cli.predict.trained import run

    return run(args)
