"""Labels of a batch, before they reach a loss that would only say that an index is wrong."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fpn_neck.losses import check_labels


def mmseg_classes(head: nn.Module) -> int:
    """K of a decode head; one logit tells 0 from 1."""
    return max(2, head.num_classes) if head.out_channels == 1 else head.num_classes


def check_sample(sample: Any, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """See `check_labels`.

    Args:
        sample: of mmseg or mmdet; its file's name comes with the error.
        labels: of the sample.

    Raises:
        TypeError, ValueError: labels of another dtype; a label that is neither a class nor ignored.
    """
    try:
        check_labels(labels, num_classes, ignore_index)
    except ValueError as e:
        name = sample.get("seg_map_path") or sample.get("img_path") or "a label map"
        raise ValueError(f"{name}: {e}") from e
