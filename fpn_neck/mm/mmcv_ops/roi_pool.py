"""RoIPool (Girshick, Fast R-CNN, ICCV 2015, sec. 2.1) as ``mmcv._ext`` names and calls it.

mmcv and torchvision round differently: mmcv scales the region from x1 to x2 + 1 and rounds the
bins outwards, torchvision rounds the region before it divides it. The two agree for regions whose
borders fall on feature pixels. So mmcv's bins are computed here, and torchvision gets each bin
as a region.
"""

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from fpn_neck.mm.mmcv_ops.inputs import at_least_float32, safe_regions


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill `output` and `argmax` with the maximum of each bin.

    Args:
        input: (N, C, H, W).
        rois: (K, 5), image index and (x1, y1, x2, y2) in image pixels, both ends inclusive.
        output: (K, C, pooled_height, pooled_width), overwritten; 0 where a bin is empty.
        argmax: like `output` in int32, overwritten with ``y * W + x``, -1 where a bin is empty.
        spatial_scale: feature pixels per image pixel.
    """
    (source,) = at_least_float32(input)
    boxes, finite = safe_regions(rois.to(source.dtype), input.shape, spatial_scale)
    channels, height, width = source.shape[1:]
    top, bottom = _bins(boxes[:, 2], boxes[:, 4], spatial_scale, pooled_height, height)
    left, right = _bins(boxes[:, 1], boxes[:, 3], spatial_scale, pooled_width, width)

    rows, columns = (slice(None), slice(None), None), (slice(None), None, slice(None))
    bins = torch.stack(
        torch.broadcast_tensors(
            boxes[:, 0, None, None],
            left[columns],
            top[rows],
            right[columns] - 1,  # torchvision's regions include their last pixel
            bottom[rows] - 1,
        ),
        dim=-1,
    )  # (K, pooled_height, pooled_width, 5)
    empty = ((bins[..., 3] < bins[..., 1]) | (bins[..., 4] < bins[..., 2])).unsqueeze(1)

    pooled = torch.ops.torchvision.roi_pool(source, bins.reshape(-1, 5), 1.0, 1, 1)
    values, positions = (t.reshape(*bins.shape[:3], channels).permute(0, 3, 1, 2) for t in pooled)
    values = values.masked_fill(empty, 0)
    output.copy_(values.where(finite[:, None, None, None], torch.nan))
    argmax.copy_(positions.masked_fill(empty, -1))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the input, (N, C, H, W), to `grad_input`; see `roi_pool_forward`."""
    (grad,) = at_least_float32(grad_output)
    boxes, finite = safe_regions(rois.to(grad.dtype), grad_input.shape, spatial_scale)
    grad = grad.where(finite[:, None, None, None], 0)
    grad_input.add_(
        torch.ops.torchvision._roi_pool_backward(
            grad, boxes, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape
        )
    )


def _bins(
    first: Tensor, last: Tensor, spatial_scale: float, count: int, limit: int
) -> tuple[Tensor, Tensor]:
    """First pixel and end (exclusive) of each bin along one axis, both (K, count).

    A region that ends before it starts has empty bins only.
    """
    start = (first * spatial_scale)[:, None]
    extent = ((last + 1) * spatial_scale)[:, None] - start
    index = torch.arange(count, device=first.device)
    begin = (start + index * (extent / count)).floor().clamp(0, limit)
    end = (start + (index + 1) * (extent / count)).ceil().clamp(0, limit)
    return begin, end.where(extent > 0, begin)
