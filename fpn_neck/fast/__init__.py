"""The neck's arithmetic, sooner and in less memory; see docs/performance.md.

`fpn_neck.FPN` takes these paths by itself where they fit: see `fpn_neck.models.fpn_fast`. Their
values differ from torch's own convolutions by rounding (about 1e-6 relative).

    fpn_neck.fast.enable(False)            # torch's own operators from here on, their exact bits
    with fpn_neck.fast.enable(False): ...  # or in here only
"""

from fpn_neck.fast.eligible import enable

__all__ = ["enable"]
