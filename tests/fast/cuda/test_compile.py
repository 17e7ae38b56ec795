"""Every kernel compiles for the GPUs it is for, and its numbers fit into the registers."""

import importlib.util

import pytest
import torch
from helpers.compiled_kernels import every_target, resources

from fpn_neck.fast.cuda.axis import Axis
from fpn_neck.fast.cuda.labels import label_launch
from fpn_neck.fast.cuda.losses import gradient_launches, sum_launches

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
MOST_REGISTERS = 168  # 12 warps of an H100's core at a time


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def axes(taps):
    return (
        Axis(empty(n, taps, dtype=torch.int32), empty(n, taps), empty(m, 2, dtype=torch.int32))
        for n, m in ((512, 128), (352, 88))
    )


def label_launches(dtype):
    """As 59 classes of eight photos start them: name -> launch."""
    labels = empty(8, 512, 352, dtype=torch.int64)
    contiguous = empty(8, 59, 128, 88, dtype=dtype)
    layouts = {"NCHW": contiguous, "NHWC": contiguous.to(memory_format=torch.channels_last)}
    return {
        f"labels, {layout}, {taps} taps": label_launch(x, *axes(taps), labels)
        for layout, x in layouts.items()
        for taps in (2, 3, 4)
    }


def loss_launches(dtype):
    """Forward and backward, with and without the dense sums: name -> launch."""
    logits = empty(8, 59, 128, 88, dtype=dtype)
    target = empty(8, 512, 352, dtype=torch.int64)
    lse, log_p, a, b = (empty(8, 512, 352) for _ in range(4))
    codes, sums, derivatives = empty(8, 512, 352, dtype=torch.int32), empty(9, 6, 59), empty(6, 59)
    made = {}
    for dense, name in ((True, "dense "), (False, "")):
        made["pixels"], made[name + "sums"] = sum_launches(
            logits, target, *axes(2), 255, dense, lse, log_p, codes, sums
        )
        made[name + "derivatives"], made[name + "gradient"] = gradient_launches(
            logits, target, *axes(2), lse, derivatives, dense, a, b, torch.empty_like(logits)
        )
    return made


@every_target
def test_no_kernel_spills(dtype, capability):
    launches = label_launches(dtype) | loss_launches(dtype)
    needs = {name: resources(launch, capability) for name, launch in launches.items()}
    print(capability, dtype, needs)
    for name, (registers, stack) in needs.items():
        assert stack == 0, name
        assert registers <= MOST_REGISTERS, name


@pytest.mark.slow
def test_offsets_of_64_bits_compile():
    """Of tensors with steps over 2 ** 31, too."""
    launches = label_launches(torch.float32) | loss_launches(torch.float32)
    for launch in launches.values():
        names = launch.kernel.arg_names
        arguments = [
            1 << 32 if name.startswith(("by_", "to_")) else value
            for name, value in zip(names, launch.arguments, strict=False)
        ]
        constants = launch.constants | {"WIDE": True}
        wide = launch._replace(arguments=tuple(arguments), constants=constants)
        _, stack = resources(wide, 90)
        assert stack == 0, constants


def test_spills_are_seen():
    registers, stack = resources(loss_launches(torch.float32)["pixels"], 90, maxnreg=32)
    assert registers <= 32 and stack > 0
