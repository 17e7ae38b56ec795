"""From the logits of cells to the labels of pixels in one kernel, without the logits of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis


def cells_to_labels(
    logits: Tensor,
    rows: Axis,
    columns: Axis,
    *,
    bound: float = 0.0,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """``argmax`` over the classes of the resized logits; for one logit: 1 where it is above bound.

    Ties take the first class. A logit may be infinite: 0 * infinity counts as 0. NaN is never the
    largest.

    Args:
        logits: (N, K, h, w), float32, float16 or bfloat16, of any strides; fast in NCHW and NHWC.
        rows: H outputs of h inputs.
        columns: W outputs of w inputs.
        bound: only for K = 1.
        dtype: of the labels, an integer type that holds K - 1.

    Returns:
        (N, H, W), contiguous, on the logits' device.
    """
    raise NotImplementedError
