"""What the operators of this folder make of their inputs before they compute."""

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_SAMPLES = 1 << 26  # of a region, 8192 x 8192 px; torchvision takes 32 bytes for each on a CPU
_MOST_NUMBERS = 1 << 28  # that are sampled of a region, 1 GiB in float32


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 to float32; other dtypes stay.

    torchvision's CPU kernels support neither, its CUDA kernels no bfloat16, and sampling positions
    in them are wrong by whole pixels. Copying into mmcv's buffers converts the results back.
    """
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t.dtype in half else t for t in tensors)


def can_be_sampled(
    extent: Tensor, size: tuple[int, int], sampling_ratio: int, channels: int = 0
) -> Tensor:
    """Which regions, (K,) bool, have no more samples than memory holds; the operators give NaN for
    the others. torchvision counts them in 32 bits, and ends the process.

    Args:
        extent: (K, 2), height and width of the regions in feature pixels.
        size: of the output, (height, width).
        sampling_ratio: samples per side of a bin, or 0: one for each pixel that a bin spans.
        channels: of the maps, if all samples of all channels are held at once.
    """
    bins = extent.new_tensor(size)
    per_bin = torch.full_like(extent, sampling_ratio) if sampling_ratio > 0 else extent / bins
    samples = per_bin.ceil().clamp(min=0).prod(1) * (size[0] * size[1])
    return (samples <= _MOST_SAMPLES) & (samples * channels <= _MOST_NUMBERS)


def safe_regions(rois: Tensor, shape: Sequence[int], spatial_scale: float) -> tuple[Tensor, Tensor]:
    """Regions that torchvision's kernels can read without ending the process.

    Args:
        rois: (K, 5), image index and (x1, y1, x2, y2).
        shape: of the maps, (N, C, H, W).
        spatial_scale: feature pixels per image pixel.

    Returns:
        Regions (K, 5), of which those with a corner or size that is not finite, in feature pixels
        too, are (0, 0, 0, 0, 0); and which regions were finite, (K,) bool. The operators give NaN
        for the others.

    Raises:
        ValueError: regions of maps without a pixel; an image index out of range, on a CPU. On a
            GPU, where looking would wait for the device, such a region counts as not finite.
    """
    images, _, height, width = shape
    if len(rois) and not height * width:
        raise ValueError(f"input: a map of {height}x{width} px has no pixel for rois to be read of")
    corners = rois[:, 1:] * spatial_scale
    sizes = corners[:, 2:] - corners[:, :2]
    finite = torch.cat((rois, corners, sizes), 1).isfinite().all(1)
    known = (rois[:, 0] >= 0) & (rois[:, 0] < images)
    if rois.device.type == "cpu" and not known.logical_or(~finite).all():
        wrong = rois[~known & finite][0, 0].item()
        raise ValueError(
            f"rois: image index {wrong:g}: expected 0..{images - 1}, the images of the batch"
        )
    finite = finite & known
    return rois.where(finite[:, None], 0), finite
