"""RoIAlign (He et al., Mask R-CNN, ICCV 2017, sec. 3) as ``mmcv._ext`` names and calls it.

Each bin is sampled on a grid of bilinear samples: `sampling_ratio` per side, or one for each pixel
that the bin spans if `sampling_ratio` is 0. torchvision averages the samples. The maximum, which
torchvision lacks, is taken over its output at the resolution of the grid, one sample per bin.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from fpn_neck.mm.mmcv_ops.inputs import at_least_float32, can_be_sampled, safe_regions

_MAX = 0  # pool_mode of the maximum; 1 is the average
_LEAST = -10000.0  # mmcv's start value of a maximum, which stays where a bin has no sample
_NO_SAMPLE = -1.0  # argmax of a bin without a sample


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output`, and with ``pool_mode=0`` the positions of the maxima.

    Args:
        input: (N, C, H, W).
        rois: (K, 5), image index and (x1, y1, x2, y2) in image pixels.
        output: (K, C, aligned_height, aligned_width), overwritten; NaN for a region that is not
            finite, or too large to be sampled; of a maximum without samples mmcv's -10000.
        argmax_y: like `output`, overwritten with the rows of the maxima in feature pixels, -1
            for a region of size 0; unchanged by the average.
        argmax_x: the same for columns.
        spatial_scale: feature pixels per image pixel.
        aligned: shift regions by half a feature pixel, so that pixel centres are at integers.
    """
    (source,) = at_least_float32(input)
    boxes = rois.to(source.dtype)
    size = (aligned_height, aligned_width)
    boxes, finite = _readable(
        boxes, input.shape, size, spatial_scale, sampling_ratio, pool_mode, aligned
    )
    if pool_mode == _MAX:
        values, rows, columns = _align_max(
            source, boxes, size, spatial_scale, sampling_ratio, aligned
        )
        argmax_y.copy_(rows)
        argmax_x.copy_(columns)
    else:
        values = torch.ops.torchvision.roi_align(
            source, boxes, spatial_scale, *size, sampling_ratio, aligned
        )
    output.copy_(values.where(finite[:, None, None, None], torch.nan))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the input, (N, C, H, W), to `grad_input`; see `roi_align_forward`."""
    (grad,) = at_least_float32(grad_output)
    boxes = rois.to(grad.dtype)
    size = (aligned_height, aligned_width)
    boxes, finite = _readable(
        boxes, grad_input.shape, size, spatial_scale, sampling_ratio, pool_mode, aligned
    )
    grad = grad.where(finite[:, None, None, None], 0)
    if pool_mode == _MAX:
        rows, columns = at_least_float32(argmax_y, argmax_x)
        result = _scatter_max(grad, boxes, rows, columns, grad_input.shape)
    else:
        result = torch.ops.torchvision._roi_align_backward(
            grad,
            boxes,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    grad_input.add_(result)


def _readable(
    boxes: Tensor,
    shape: Sequence[int],
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """See `safe_regions`; a region of too many samples counts as one that is not finite.

    A region that ends before it begins has no samples, as in mmcv on GPUs; torchvision would ask
    for a negative number of them.
    """
    boxes, finite = safe_regions(boxes, shape, spatial_scale)
    if sampling_ratio > 0:
        return boxes, finite
    if aligned:
        ends = boxes[:, 3:].maximum(boxes[:, 1:3])
        boxes = torch.cat((boxes[:, :3], ends), 1)
    _, extent = _regions(boxes, spatial_scale, aligned)
    channels = shape[1] if pool_mode == _MAX else 0
    finite = finite & can_be_sampled(extent, size, sampling_ratio, channels)
    return boxes.where(finite[:, None], 0), finite


def _align_max(
    source: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The maxima and their rows and columns, each (K, C, *size)."""
    start, extent = _regions(boxes, spatial_scale, aligned)
    values = source.new_full((len(boxes), source.shape[1], *size), _LEAST)
    rows, columns = torch.full_like(values, _NO_SAMPLE), torch.full_like(values, _NO_SAMPLE)

    # regions with the same number of samples per bin are sampled together
    samples = _samples_per_bin(extent, size, sampling_ratio)
    for grid in samples.unique(dim=0).tolist():
        if 0 in grid:
            continue
        chosen = (samples == samples.new_tensor(grid)).all(dim=1)
        fine = (size[0] * grid[0], size[1] * grid[1])
        sampled = torch.ops.torchvision.roi_align(
            source, boxes[chosen], spatial_scale, *fine, 1, aligned
        )
        values[chosen], index = F.max_pool2d(sampled, grid, return_indices=True)
        step = (extent[chosen] / extent.new_tensor(fine))[:, :, None, None, None]
        origin = start[chosen][:, :, None, None, None]
        rows[chosen] = origin[:, 0] + (index // fine[1] + 0.5) * step[:, 0]
        columns[chosen] = origin[:, 1] + (index % fine[1] + 0.5) * step[:, 1]
    return values, rows, columns


def _regions(boxes: Tensor, spatial_scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Top left corner and extent of each region in feature pixels, (K, 2) as (y, x)."""
    corners = boxes[:, [2, 1, 4, 3]] * spatial_scale - (0.5 if aligned else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return start, extent if aligned else extent.clamp(min=1)


def _samples_per_bin(extent: Tensor, size: tuple[int, int], sampling_ratio: int) -> Tensor:
    """Rows and columns of samples in a bin of each region, (K, 2) int64."""
    if sampling_ratio > 0:
        return torch.full_like(extent, sampling_ratio, dtype=torch.long)
    return (extent / extent.new_tensor(size)).ceil().clamp(min=0).long()


def _scatter_max(
    grad: Tensor, boxes: Tensor, rows: Tensor, columns: Tensor, shape: torch.Size
) -> Tensor:
    """Add each gradient to the four pixels that its maximum was interpolated from.

    A maximum has another position in every channel. So each becomes a region of one pixel and one
    bin, in a batch of images with a single channel.
    """
    batch, channels, height, width = shape
    grad = grad.where(rows != _NO_SAMPLE, 0.0)
    plane = boxes[:, :1] * channels + torch.arange(channels, device=boxes.device)  # (K, C)
    plane = plane[:, :, None, None].expand_as(grad)
    pixels = torch.stack([plane, columns, rows, columns + 1, rows + 1], dim=-1)
    return torch.ops.torchvision._roi_align_backward(
        grad.reshape(-1, 1, 1, 1),
        pixels.reshape(-1, 5),
        1.0,
        1,
        1,
        batch * channels,
        1,
        height,
        width,
        1,
        True,
    ).reshape(shape)
