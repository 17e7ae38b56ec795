"""From the logits of cells to the labels of pixels in one kernel, without the logits of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.launch import Launch
from fpn_neck.fast.cuda.layout import is_class_last, needs_int64, pixel_tile


def cells_to_labels(logits: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """``argmax`` over the classes of the resized logits; for one logit: 1 where it is above 0.

    Ties take the first class. A logit may be infinite: 0 * infinity counts as 0. NaN is never the
    largest.

    Args:
        logits: (N, K, h, w), float32, float16 or bfloat16, of any strides; fast in NCHW and NHWC.
        rows: H outputs of h inputs.
        columns: W outputs of w inputs.

    Returns:
        (N, H, W), int64, contiguous, on the logits' device.
    """
    size = len(logits), len(rows.indices), len(columns.indices)
    labels = torch.empty(size, dtype=torch.int64, device=logits.device)
    label_launch(logits, rows, columns, labels).run()
    return labels


def label_launch(logits: Tensor, rows: Axis, columns: Axis, labels: Tensor) -> Launch:
    """What fills ``labels``."""
    from fpn_neck.fast.cuda.label_kernel import write_labels

    images, height, width = labels.shape
    classes = logits.shape[1]
    taps = rows.indices.shape[1], columns.indices.shape[1]
    tile = pixel_tile(logits, max(taps))
    return Launch(
        write_labels,
        (tile.covering(height, width), images),
        (
            logits, rows.indices, rows.weights, columns.indices, columns.weights, labels,
            classes, height, width, *logits.stride(),
        ),
        {
            "R": taps[0], "C": taps[1],
            "B": tile.classes, "ROWS": tile.rows, "COLUMNS": tile.columns,
            "CLASS_LAST": is_class_last(logits), "ONE": classes == 1,
            "WIDE": needs_int64(logits, height * width),
        },
    )  # fmt: skip
