"""Faster convolutions for the neck and the head, with less memory; see docs/performance.md.

`fpn_neck.FPN` and `fpn_neck.SegHead` use them by themselves where they apply. Their results differ
from torch's own convolutions by rounding (about 1e-6 relative to the largest value). On a GPU,
losses and label maps of `fpn_neck.strips` use Triton's kernels where Triton is installed.

    fpn_neck.fast.enable(False)            # torch's own operators from here on, bit for bit
    with fpn_neck.fast.enable(False): ...  # or only inside the block
    fpn_neck.fast.forget_weights(model)    # free the transformed weights that inference keeps
"""

from fpn_neck.fast.cpu.conv3x3 import forget_weights
from fpn_neck.fast.eligible import enable

__all__ = ["enable", "forget_weights"]
