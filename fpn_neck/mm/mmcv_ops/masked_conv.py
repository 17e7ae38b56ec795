"""Convolution at chosen cells only, as ``mmcv._ext`` names and calls its two steps.

It is used by guided anchoring (Wang et al., CVPR 2019), for one image in inference; mmcv gives it
no backward.

Shapes: image (1, C, H, W); indices of the n chosen cells (n,), int64; columns (C * kH * kW, n).
"""

import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Overwrite `col` with the windows that begin `pad_h`, `pad_w` before the chosen cells."""
    padded = F.pad(im, (pad_w, kernel_w, pad_h, kernel_h))  # zeros outside, as in mmcv
    windows = padded.unfold(2, kernel_h, 1).unfold(3, kernel_w, 1)[0]  # (C, H', W', kH, kW)
    chosen = windows[:, mask_h_idx, mask_w_idx]  # (C, n, kH, kW)
    col.copy_(chosen.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write column i of `col` (channels, n) into the chosen cell i of `im`."""
    inside = (mask_h_idx < height) & (mask_w_idx < width)  # a kernel without padding gives fewer
    im[0, :, mask_h_idx[inside], mask_w_idx[inside]] = col[:, inside]
