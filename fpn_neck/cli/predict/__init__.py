"""Segment photos or find objects in them: fpn-neck predict [[CONFIG] MODEL] IMAGES... [--out DIR].

The two ways: `trained`, a checkpoint or a segmenter's folder; `exported`, an ONNX file, without
torch.
"""

from __future__ import annotations

import sys
from itertools import pairwise


def main() -> int:
    """The verb, for the kind of model that is named."""
    words = [word for before, word in pairwise(sys.argv) if before != "--out"]
    if any(word.endswith(".onnx") and not word.startswith("--out=") for word in words):
        from fpn_neck.cli.predict import exported  # what `trained` imports loads torch

        return exported.main()
    from fpn_neck.cli.predict import trained

    return trained.main()
