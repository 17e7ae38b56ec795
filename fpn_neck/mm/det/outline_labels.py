"""Label maps for Panoptic FPN from the outlines of objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from fpn_neck.mm.registry import TRANSFORMS
from fpn_neck.utils.values import check_whole

_IGNORED = 255  # ignore_index of the loss


@TRANSFORMS.register_module()
class LabelsFromOutlines(BaseTransform):
    """Make the label map: an object's pixels have its label, all others the one label of stuff.

    A COCO file of objects is then enough for Panoptic FPN. The pixels of a region that is marked
    ``iscrowd`` are ignored, as in `fpn_neck.mm.det.panoptic_quality.PanopticQualityMetric`. Of
    objects that overlap, the later one is on top.

    Args:
        num_classes: number of things, at most 254; it is the label of stuff.

    Raises:
        ValueError: num_classes is out of its rule.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = check_whole("num_classes", num_classes, 1)
        if num_classes >= _IGNORED:
            raise ValueError(
                f"num_classes={num_classes}: at most {_IGNORED - 1}, since the label {_IGNORED} is "
                "ignored; use Mask R-CNN for more"
            )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map``, uint8 (H, W); needs ``LoadAnnotations`` with boxes and masks."""
        masks, ignored = results["gt_masks"], results["gt_ignore_flags"]
        labels = np.full((masks.height, masks.width), self.num_classes, np.uint8)
        order = np.argsort(~ignored, kind="stable")  # a crowd's region lies under the objects
        for i in order.tolist():
            value = _IGNORED if ignored[i] else results["gt_bboxes_labels"][i]
            labels[masks.masks[i] > 0] = value
        return results | {"gt_seg_map": labels}
