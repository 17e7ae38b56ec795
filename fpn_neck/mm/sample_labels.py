"""Labels of a sample, checked before the loss, whose error would only name a wrong index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from fpn_neck.strips.labels import check_labels

LabelRule = tuple[int, int]  # number of classes, label to ignore
_MARK = "checked_labels"  # in a sample's metainfo: the rules that its labels follow


def mmseg_classes(head: nn.Module) -> int:
    """Number of classes of an mmseg decode head; a head of one logit tells class 0 from 1."""
    num_classes = cast(int, head.num_classes)
    return max(2, num_classes) if head.out_channels == 1 else num_classes


def check_sample(sample: Any, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """See `check_labels`. Does nothing if `mark_checked` has marked the sample for this rule.

    Args:
        sample: of mmseg or mmdet; the error names its file.
        labels: of the sample, integers.

    Raises:
        TypeError, ValueError: labels of another dtype; a label that is neither a class nor the
            label to ignore.
    """
    if (num_classes, ignore_index) in sample.get(_MARK, ()):
        return
    try:
        check_labels(labels, num_classes, ignore_index)
    except ValueError as e:
        name = sample.get("seg_map_path") or sample.get("img_path") or "a label map"
        raise ValueError(f"{name}: {e}") from e


def mark_checked(sample: Any, rules: Iterable[LabelRule]) -> None:
    """Note in a sample that its labels follow these rules, also where they will be padded."""
    sample.set_metainfo({_MARK: tuple(rules)})
