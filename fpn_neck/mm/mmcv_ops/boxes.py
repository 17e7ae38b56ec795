"""Non-maximum suppression under the names and signatures of ``mmcv._ext``.

Boxes are (x1, y1, x2, y2); a width is ``x2 - x1 + offset``, with offset 0 or 1 (mmcv's legacy
pixel-inclusive convention). The overlap of two equal boxes without area is 0 / 0: no box is dropped
for it, and a Gaussian soft-NMS gives it the score NaN, both as in mmcv.
"""

import torch
import torchvision
from torch import Tensor

from fpn_neck.mm.mmcv_ops.inputs import at_least_float32

_NAIVE, _LINEAR, _GAUSSIAN = 0, 1, 2  # mmcv.ops.soft_nms(method=...)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression of boxes whose IoU with a better one exceeds the threshold.

    An overlap that is equal to the threshold in the boxes' dtype does not exceed it, as in mmcv.

    Args:
        boxes: (N, 4).
        scores: (N,).

    Returns:
        Indices of the kept boxes, best first, (K,) int64.
    """
    boxes, scores = at_least_float32(_inclusive(boxes, offset), scores)
    dtype = torch.promote_types(boxes.dtype, scores.dtype)  # torchvision wants both alike
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    # torchvision compares a float32 overlap with a float64 threshold on the CPU: 3 / 5 > 0.6
    threshold = torch.tensor(iou_threshold, dtype=dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)


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
    """Soft-NMS (Bodla et al., ICCV 2017, eq. 2-3): overlapping boxes get a lower score.

    Until no box is left, the best box is taken, every other score is multiplied by a weight that
    depends on the overlap with it, and boxes below `min_score` are dropped. The first box is never
    dropped. Of equal scores the first is taken.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), whose first K rows are overwritten with the taken boxes and their scores.
        method: 0 drops boxes whose overlap reaches the threshold, 1 multiplies their scores by
            ``1 - iou``, 2 multiplies every score by ``exp(-iou^2 / sigma)``.

    Returns:
        Indices of the taken boxes in the order they were taken, (K,) int64.
    """
    remaining = torch.arange(len(boxes), device=boxes.device)
    taken: list[Tensor] = []
    while len(remaining):
        best = _best(scores)
        dets[len(taken), :4], dets[len(taken), 4] = boxes[best], scores[best]
        taken.append(remaining[best])

        # mmcv swaps the best box with the first one.
        order = torch.arange(len(scores), device=scores.device)
        order[best] = 0
        iou = _iou_with(boxes[best], boxes, offset)
        scores = scores * _soft_weight(iou, iou_threshold, sigma, method)
        order = order[1:]
        order = order[_without_gaps(~(scores[order] < min_score))]  # NaN is not below it
        boxes, scores, remaining = boxes[order], scores[order], remaining[order]
    return torch.stack(taken) if taken else remaining


def _best(scores: Tensor) -> int:
    """The first maximum as mmcv's loop finds it: NaN is never larger, and nothing exceeds it."""
    if scores[0].isnan():
        return 0
    return int(scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax())


def _without_gaps(kept: Tensor) -> Tensor:
    """Positions of what is kept, where mmcv leaves it: the last ones fill the gaps in front."""
    count = int(kept.sum())
    order = torch.arange(count, device=kept.device)
    order[~kept[:count]] = kept[count:].nonzero().flatten().flip(0) + count
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each kept box with the boxes it suppresses: those whose IoU reaches the threshold.

    Args:
        dets: (N, 5), boxes and scores.

    Returns:
        One list of indices for each kept box, best first: the box itself, then the boxes it
        suppresses in the order of their scores.
    """
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    while len(order):
        iou = _iou_with(dets[order[0], :4], dets[order, :4], offset=0)
        matched = iou >= iou_threshold
        matched[0] = True  # even if the box has no area
        groups.append(order[matched].tolist())
        order = order[~matched]
    return groups


def _inclusive(boxes: Tensor, offset: int) -> Tensor:
    """Boxes (…, 4) whose width ``x2 - x1``, without an offset, is the width with the offset."""
    return boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes


def _iou_with(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Overlap of one box (4,) with many (N, 4), as (N,)."""
    return torchvision.ops.box_iou(_inclusive(box, offset)[None], _inclusive(boxes, offset))[0]


def _soft_weight(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == _GAUSSIAN:
        return (-iou.square() / sigma).exp()
    weight = 1 - iou if method == _LINEAR else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, weight, 1.0)
