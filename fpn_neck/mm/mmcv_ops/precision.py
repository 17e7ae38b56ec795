"""One rule on number formats for all operators of this folder."""

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Widen float16 and bfloat16 to float32; leave the rest as they are.

    torchvision's CPU kernels know neither format and its CUDA kernels not bfloat16, and sampling
    positions lose whole pixels in them. Results are narrowed when copied into mmcv's buffers.
    """
    half = (torch.float16, torch.bfloat16)
    return tuple(t.float() if t.dtype in half else t for t in tensors)
