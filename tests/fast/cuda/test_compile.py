"""Every kernel compiles for the GPUs it is for, and its numbers fit into the registers."""

import importlib.util

import pytest
import torch
from helpers.compiled_kernels import resources

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.labels import label_launch
from fpn_neck.fast.cuda.losses import gradient_launches, sum_launches

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
MOST_REGISTERS = 168  # 12 warps of an H100's core at a time


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def launches(layout, dtype):
    """All kernels, as 59 classes of eight photos start them: name -> launch."""
    logits = empty(8, 59, 128, 88, dtype=dtype).contiguous(memory_format=layout)
    target = empty(8, 512, 352, dtype=torch.int64)
    pixels = [empty(8, 512, 352) for _ in range(5)]
    codes, derivatives = empty(8, 512, 352, dtype=torch.int32), empty(6, 59)

    def axes(taps):
        return (
            Axis(empty(n, taps, dtype=torch.int32), empty(n, taps), empty(m, 2, dtype=torch.int32))
            for n, m in ((512, 128), (352, 88))
        )

    made = {f"labels, {s} taps": label_launch(logits, *axes(s), 0.0, target) for s in (2, 3, 4)}
    for dense in (True, False):
        lse, log_p, a, b, _ = pixels
        name = "dense " if dense else ""
        made[name + "pixels"], made[name + "sums"] = sum_launches(
            logits, target, *axes(2), 255, dense, lse, log_p, codes, empty(9, 6, 59)
        )
        made[name + "derivatives"], made[name + "gradient"] = gradient_launches(
            logits, target, *axes(2), lse, derivatives, dense, a, b, torch.empty_like(logits)
        )
    return made


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [
        (torch.bfloat16, 90),
        pytest.param(torch.bfloat16, 80, marks=pytest.mark.slow),
        pytest.param(torch.float32, 90, marks=pytest.mark.slow),
        pytest.param(torch.float32, 80, marks=pytest.mark.slow),
        pytest.param(torch.float16, 90, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_no_kernel_spills(layout, dtype, capability):
    needs = {name: resources(k, capability) for name, k in launches(layout, dtype).items()}
    print(needs)
    for name, (registers, stack) in needs.items():
        assert stack == 0, name
        assert registers <= MOST_REGISTERS, name


def test_spills_are_seen():
    kernel = launches(torch.contiguous_format, torch.float32)["pixels"]
    registers, stack = resources(kernel, 90, maxnreg=32)
    assert registers <= 32 and stack > 0
