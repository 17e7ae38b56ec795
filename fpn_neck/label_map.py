"""From logits to labels at another size, without the logits at that size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fpn_neck.row_map import RowMap


@torch.no_grad()
def label_map(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """``argmax(resize(logits, size))``, strip by strip.

    Memory beside the result is a few MiB, whatever K and the size; whole logits of 194 classes at
    2000 x 3000 px take 4.7 GB. Labels are the same except where two logits tie within rounding.

    Args:
        logits: (N, K, h, w), floating point.
        size: (H, W) of the result.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        Labels (N, H, W), int64 in 0..K-1.
    """
    labels = logits.new_empty((len(logits), *size), dtype=torch.int64)
    for image, result in zip(logits.split(1), labels.split(1), strict=True):
        fill_labels(RowMap.of(image).resize(size, align_corners), result)
    return labels


def fill_labels(logits: RowMap, labels: Tensor) -> None:
    """Write the largest logit's index into ``labels`` (N, H, W), strip by strip."""
    for rows, strip in logits.strips():
        labels[:, rows] = strip.max(1).indices  # half the time of argmax on a CPU
