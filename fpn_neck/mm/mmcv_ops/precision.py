"""The dtype in which all operators of this folder compute."""

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 to float32; other dtypes stay.

    torchvision's CPU kernels support neither, its CUDA kernels no bfloat16, and sampling positions
    in them are wrong by whole pixels. Copying into mmcv's buffers converts the results back.
    """
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t.dtype in half else t for t in tensors)
