"""What the operators of this folder make of their inputs before they compute."""

from collections.abc import Sequence

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 to float32; other dtypes stay.

    torchvision's CPU kernels support neither, its CUDA kernels no bfloat16, and sampling positions
    in them are wrong by whole pixels. Copying into mmcv's buffers converts the results back.
    """
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t.dtype in half else t for t in tensors)


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
