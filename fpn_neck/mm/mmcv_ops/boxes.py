"""Non-maximum suppression under the names and signatures of ``mmcv._ext``.

Boxes are (x1, y1, x2, y2); a width is ``x2 - x1 + offset``, with offset 0 or 1 (mmcv's legacy
pixel-inclusive convention). The overlap of two boxes without area counts as 0.
"""

import torch
import torchvision
from torch import Tensor

from fpn_neck.mm.mmcv_ops.precision import at_least_float32

_NAIVE, _LINEAR, _GAUSSIAN = 0, 1, 2  # mmcv.ops.soft_nms(method=...)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression of boxes that overlap a better one by more than the threshold.

    Args:
        boxes: (N, 4).
        scores: (N,).

    Returns:
        Indices of the kept boxes, best first, (K,) int64.
    """
    boxes, scores = at_least_float32(_closed(boxes, offset), scores)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017, eq. 2-3): overlapping boxes lose score, not life.

    The best box is taken, every other score is multiplied by a weight of its overlap with it, and
    boxes now below `min_score` are dropped; until none is left. The first box is never dropped.
    Of equal scores the first is taken.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), whose first K rows are overwritten with the taken boxes and their scores.
        method: 0 drops what reaches the threshold, 1 multiplies it by ``1 - iou``, 2 multiplies
            every box by ``exp(-iou^2 / sigma)``.

    Returns:
        Indices of the taken boxes in the order they were taken, (K,) int64.
    """
    remaining = torch.arange(len(boxes), device=boxes.device)
    taken = []
    while len(remaining):
        best = scores.argmax()
        dets[len(taken), :4], dets[len(taken), 4] = boxes[best], scores[best]
        taken.append(remaining[best])

        iou = _iou_with(boxes[best], boxes, offset)
        scores = scores * _soft_weight(iou, iou_threshold, sigma, method)
        alive = scores >= min_score
        alive[best] = False
        boxes, scores, remaining = boxes[alive], scores[alive], remaining[alive]
    return torch.stack(taken) if taken else remaining


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each kept box with the boxes it suppresses, those that reach the threshold.

    Args:
        dets: (N, 5), boxes and scores.

    Returns:
        One list of indices for each kept box, best first: the box itself, then what it suppressed
        in the order of the scores.
    """
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        iou = _iou_with(dets[order[0], :4], dets[order, :4], offset=0)
        matched = iou >= iou_threshold
        matched[0] = True  # also where the box has no area
        groups.append(order[matched].tolist())
        order = order[~matched]
    return groups


def _closed(boxes: Tensor, offset: int) -> Tensor:
    """Boxes (…, 4) whose plain widths are those with the offset."""
    return boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes


def _iou_with(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Overlap of one box (4,) with many (N, 4), as (N,)."""
    iou = torchvision.ops.box_iou(_closed(box, offset)[None], _closed(boxes, offset))[0]
    return iou.nan_to_num(0.0)


def _soft_weight(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == _GAUSSIAN:
        return (-iou.square() / sigma).exp()
    weight = 1 - iou if method == _LINEAR else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, weight, 1.0)
