"""Deformable RoI pooling as ``mmcv._ext`` names and calls it (Dai et al., ICCV 2017).

RoIAlign whose bins may each be moved: by ``gamma`` times the region's width and height times the
bin's offset (mmcv 2.1, ``csrc/common/cuda/deform_roi_pool_cuda_kernel.cuh``).

Shapes: input (N, C, H, W); rois (R, 5) as image index, x1, y1, x2, y2 in px of the image; offset
(R, 2, oH, oW) as x and y, or empty; output (R, C, oH, oW).
"""

from functools import partial

import torch
from torch import Tensor

from fpn_neck.mm.mmcv_ops.autograd import gradients
from fpn_neck.mm.mmcv_ops.inputs import at_least_float32, can_be_sampled, safe_regions

_SAMPLES = 1 << 22  # numbers that are sampled together


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Overwrite `output`; NaN of a region or an offset that is not finite."""
    size = pooled_height, pooled_width
    features, moves = at_least_float32(input, offset)
    regions, finite = _readable(rois, input.shape, size, spatial_scale, sampling_ratio)
    values = _pool(features, moves, regions, size, spatial_scale, sampling_ratio, gamma)
    known = finite[:, None, None, None]
    if moves.numel():
        known = known & moves.isfinite().all(1, keepdim=True)
    output.copy_(values.where(known, torch.nan))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Overwrite the gradients of input and, if there are any, of the offsets."""
    size = pooled_height, pooled_width
    regions, finite = _readable(rois, input.shape, size, spatial_scale, sampling_ratio)
    grad = grad_output.where(finite[:, None, None, None], 0)
    pool = partial(
        _pool,
        rois=regions,
        size=size,
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
        gamma=gamma,
    )
    features, moves = at_least_float32(input, offset)
    if not len(rois):
        return
    if not offset.numel():
        grad_input.copy_(gradients(lambda x: pool(x, moves), [features], grad)[0])
        return
    grads = gradients(pool, [features, moves], grad)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


def _readable(
    rois: Tensor, shape: torch.Size, size: tuple[int, int], spatial_scale: float, ratio: int
) -> tuple[Tensor, Tensor]:
    """See `safe_regions`; a region of too many samples counts as one that is not finite."""
    rois, finite = safe_regions(at_least_float32(rois)[0], shape, spatial_scale)
    extent = (rois[:, [4, 3]] - rois[:, [2, 1]]) * spatial_scale
    finite = finite & can_be_sampled(extent, size, ratio, shape[1])
    return rois.where(finite[:, None], 0), finite


def _pool(
    input: Tensor,
    offset: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    boxes = rois[:, 1:].to(input.dtype) * spatial_scale - 0.5
    extent = boxes[:, 2:] - boxes[:, :2]  # (R, 2) as width, height
    bins = extent / extent.new_tensor(size[::-1])
    starts = boxes[:, :2, None, None] + _corners(bins, size)  # (R, 2, oH, oW)
    if offset.numel():
        starts = starts + gamma * extent[:, :, None, None] * offset
    counts = bins.ceil().clamp(min=0).long() if sampling_ratio <= 0 else None
    output = input.new_zeros(len(rois), input.shape[1], *size)
    for count, chosen in _groups(counts, sampling_ratio, len(rois), rois.device):
        per_box = input.shape[1] * size[0] * size[1] * max(1, count[0] * count[1])
        for part in chosen.split(max(1, _SAMPLES // per_box)):
            images = rois[part, 0].long()
            values = _average(input, images, starts[part], bins[part], count)
            output = output.index_put((part,), values)
    return output


def _corners(bins: Tensor, size: tuple[int, int]) -> Tensor:
    """Where every bin begins in its region, (R, 2, oH, oW)."""
    y, x = (torch.arange(n, device=bins.device, dtype=bins.dtype) for n in size)
    along_x = bins[:, 0, None, None] * x.expand(*size)
    along_y = bins[:, 1, None, None] * y[:, None].expand(*size)
    return torch.stack((along_x, along_y), 1)


def _groups(
    counts: Tensor | None, sampling_ratio: int, number: int, device: torch.device
) -> list[tuple[tuple[int, int], Tensor]]:
    """((columns, rows) of samples in a bin, the regions that have so many)."""
    if counts is None:
        return [((sampling_ratio,) * 2, torch.arange(number, device=device))]
    kinds, which = counts.unique(dim=0, return_inverse=True)
    return [
        ((int(columns), int(rows)), (which == i).nonzero().flatten())
        for i, (columns, rows) in enumerate(kinds.tolist())
    ]


def _average(
    input: Tensor, images: Tensor, starts: Tensor, bins: Tensor, count: tuple[int, int]
) -> Tensor:
    """Mean of the samples of each bin, (R, C, oH, oW); 0 of a bin without samples."""
    columns, rows = count
    if not columns * rows:
        return input.new_zeros(len(images), input.shape[1], *starts.shape[2:])
    steps = (
        (torch.arange(n, device=bins.device, dtype=bins.dtype) + 0.5) / n for n in (columns, rows)
    )
    x, y = (
        starts[:, i, :, :, None] + bins[:, i, None, None, None] * step
        for i, step in enumerate(steps)
    )  # (R, oH, oW, columns) and (R, oH, oW, rows)
    y, x = torch.broadcast_tensors(y[..., :, None], x[..., None, :])
    samples = _bilinear(input, images[:, None, None, None, None], y, x)
    return samples.mean((3, 4)).permute(0, 3, 1, 2)


def _bilinear(input: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values at (y, x) px, (..., C); 0 farther out than a pixel, the border's value before that."""
    h, w = input.shape[2:]
    inside = (y >= -1) & (y <= h) & (x >= -1) & (x <= w)
    y, x = y.clamp(0, h - 1), x.clamp(0, w - 1)
    top, left = (t.detach().nan_to_num().floor().long() for t in (y, x))
    bottom, right = (top + 1).clamp(max=h - 1), (left + 1).clamp(max=w - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]
    cells = input.permute(0, 2, 3, 1)  # (N, H, W, C)
    upper = cells[images, top, left] * (1 - across) + cells[images, top, right] * across
    lower = cells[images, bottom, left] * (1 - across) + cells[images, bottom, right] * across
    return (upper * (1 - down) + lower * down) * inside[..., None]  # NaN stays NaN
