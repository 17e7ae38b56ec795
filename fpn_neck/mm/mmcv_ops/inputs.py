"""What the operators of this folder make of their inputs before they compute."""

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 to float32; other dtypes stay.

    torchvision's CPU kernels support neither, its CUDA kernels no bfloat16, and sampling positions
    in them are wrong by whole pixels. Copying into mmcv's buffers converts the results back.
    """
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t.dtype in half else t for t in tensors)


def safe_regions(rois: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Regions that torchvision's kernels can read without ending the process.

    Args:
        rois: (K, 5), image index and (x1, y1, x2, y2).
        images: in the batch.

    Returns:
        Regions (K, 5), of which those with a number that is not finite are (0, 0, 0, 0, 0); and
        which regions were finite, (K,) bool. The operators give NaN for the others.

    Raises:
        ValueError: an image index out of range, on a CPU. On a GPU, where looking would wait for
            the device, such a region counts as not finite.
    """
    finite = rois.isfinite().all(1)
    known = (rois[:, 0] >= 0) & (rois[:, 0] < images)
    if rois.device.type == "cpu" and not known.logical_or(~finite).all():
        wrong = rois[~known & finite][0, 0].item()
        raise ValueError(
            f"rois: image index {wrong:g}: expected 0..{images - 1}, the images of the batch"
        )
    finite = finite & known
    return rois.where(finite[:, None], 0), finite
