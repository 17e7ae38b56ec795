"""Segment photos or find objects in them: fpn-neck predict [[CONFIG] MODEL] IMAGES... [--out DIR].

The two ways: `trained`, a checkpoint or a segmenter's folder; `exported`, an ONNX file, without
torch.
"""

from __future__ import annotations

import sys


def main() -> int:
    """The verb, for the kind of model that is named."""
    if any(word.endswith(".onnx") for word in sys.argv[1:]):
        from fpn_neck.cli.predict import exported  # what `trained` imports loads torch

        return exported.main()
    from fpn_neck.cli.predict import trained

    return trained.main()
