"""What was measured on each family of processors: from where on our paths are the faster ones.

The choice depends on the processor and the sizes and not on a measurement at run time, so that a
program gives the same bits again. Figures: docs/performance.md.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch


class Limits(NamedTuple):
    """From where on Winograd's algorithm is faster than torch's convolution, in its best layout.

    Attributes:
        channels: the least of the input's and the output's.
        multiply_adds: of the direct convolution of the whole batch, for each thread.
        multiply_adds_of_image: of one image: each has blocks of its own, which Python starts.
        multiply_adds_with_gradients: the same in training, where a weight is transformed in each
            call, forward and backward.
        pixels_with_gradients: of the batch, for each thread, in training: a transform takes as long
            as so many pixels, whatever the channels.
        onednn_channels: from where on oneDNN's products are faster than MKL's; None is nowhere.
        fast_bfloat16: whether torch's convolution in bfloat16 is faster than ours in float32.
    """

    channels: int = 1
    multiply_adds: float = 5e8
    multiply_adds_of_image: float = 1.6e8
    multiply_adds_with_gradients: float = 2e9
    pixels_with_gradients: int = 0
    onednn_channels: int | None = None
    fast_bfloat16: bool = False


# By vendor and by what torch takes of the processor's instructions. MKL leaves out AMD's AVX-512.
MEASURED = {
    ("AuthenticAMD", "AVX512"): Limits(onednn_channels=96, fast_bfloat16=True),  # Zen 4
    ("AuthenticAMD", "AVX2"): Limits(  # Zen 3
        channels=96,
        multiply_adds=2e8,
        multiply_adds_with_gradients=2e8,
        pixels_with_gradients=1200,
        onednn_channels=128,
    ),
}
OTHERS = Limits()  # Intel with AVX-512


@cache
def limits() -> Limits:
    """Those of this processor."""
    found = MEASURED.get((vendor(), torch.backends.cpu.get_cpu_capability()), OTHERS)
    return found if _has_onednn() else found._replace(onednn_channels=None)


def vendor() -> str:
    """'GenuineIntel', 'AuthenticAMD', ..., or '' where it is not known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    words = platform.processor().replace(",", " ").split()  # Windows: "..., AuthenticAMD"
    return words[-1] if words else ""


def _has_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )
