"""Labels of a sample, checked before the loss, whose error would only name a wrong index."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from fpn_neck.losses import check_labels


def mmseg_classes(head: nn.Module) -> int:
    """Number of classes of an mmseg decode head; a head of one logit tells class 0 from 1."""
    num_classes = cast(int, head.num_classes)
    return max(2, num_classes) if head.out_channels == 1 else num_classes


def check_sample(sample: Any, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """See `check_labels`.

    Args:
        sample: of mmseg or mmdet; the error names its file.
        labels: of the sample, integers.

    Raises:
        TypeError, ValueError: labels of another dtype; a label that is neither a class nor the
            label to ignore.
    """
    try:
        check_labels(labels, num_classes, ignore_index)
    except ValueError as e:
        name = sample.get("seg_map_path") or sample.get("img_path") or "a label map"
        raise ValueError(f"{name}: {e}") from e
