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


class Limit(NamedTuple):
    """From where on Winograd's algorithm is faster than torch's convolution.

    Attributes:
        channels: the least of the input's and the output's.
        multiply_adds: of the direct convolution of the whole batch, for each thread.
        of_image: the same of one image: each has blocks of its own, which Python starts.
        pixels: of the batch, for each thread. Transforming a weight that is used once takes as long
            as convolving this many pixels, whatever the channels.
    """

    channels: int = 1
    multiply_adds: float = 5e8
    of_image: float = 1.6e8
    pixels: int = 0


class Limits(NamedTuple):
    """What is faster from where on.

    Attributes:
        inference: the forward, with a weight that is transformed once and kept.
        training: forward and both gradients, with transforms in each call.
        weight_gradient: of maps in channels_last, where the rest is torch's; None is nowhere.
        onednn_channels: from where on oneDNN's products are faster than MKL's; None is nowhere.
        fast_bfloat16: whether torch's convolution in bfloat16 is faster than ours in float32.
    """

    inference: Limit = Limit()
    training: Limit = Limit(multiply_adds=2e9)
    weight_gradient: Limit | None = None
    onednn_channels: int | None = None
    fast_bfloat16: bool = False


# By vendor and by what torch takes of the processor's instructions. MKL leaves out AMD's AVX-512.
MEASURED = {
    ("AuthenticAMD", "AVX512"): Limits(onednn_channels=96, fast_bfloat16=True),  # Zen 4
    ("AuthenticAMD", "AVX2"): Limits(  # Zen 3
        inference=Limit(channels=96, multiply_adds=2e8),
        training=Limit(channels=96, multiply_adds=2e8, pixels=1200),
        weight_gradient=Limit(channels=64, multiply_adds=8e7, of_image=4e7, pixels=2400),
        onednn_channels=128,
    ),
}
OTHERS = Limits()  # Intel with AVX-512
LEAST_MULTIPLY_ADDS = 4e7  # of a batch: below it, torch's operators are faster everywhere


@cache
def limits() -> Limits:
    """Those of this processor."""
    found = MEASURED.get((vendor(), torch.backends.cpu.get_cpu_capability()), OTHERS)
    return found if _has_onednn() else found._replace(onednn_channels=None)


def vendor() -> str:
    """'GenuineIntel', 'AuthenticAMD', ...; another word or '' where it is not known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    words = platform.processor().replace(",", " ").split()  # Windows: "..., AuthenticAMD"
    return words[-1] if words else ""


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_reorder_convolution_weight", "_convolution_pointwise", "data_ptr", "_nbytes")
    )
