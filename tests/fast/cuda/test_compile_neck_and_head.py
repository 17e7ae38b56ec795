"""The kernels of the neck and the head compile for the GPUs they are for; none spills."""

import importlib.util

import pytest
import torch
from helpers.compiled_kernels import every_target, resources

from fpn_neck.fast.cuda.merge import merge_launch, sum_launch, widen_launch
from fpn_neck.fast.cuda_head.double import add_launch
from fpn_neck.fast.cuda_head.double import sum_launch as doubled_sum_launch
from fpn_neck.fast.cuda_head.norm import (
    gradient_launch,
    gradient_sum_launch,
    moment_launches,
    write_launch,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
MOST_REGISTERS = 168  # 12 warps of an H100's core at a time


def empty(*shape, dtype=torch.float32, layout=torch.contiguous_format):
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def neck_launches(layout, dtype):
    """At C2 of eight photos of 800 x 1216, and above an odd size."""
    kind = {"dtype": dtype, "layout": layout}
    lateral, bias, sums = empty(8, 256, 200, 304, **kind), empty(256), empty(8000, 256)
    above, odd = empty(8, 256, 100, 152, **kind), empty(8, 256, 101, 152, **kind)
    made = {
        "merge": merge_launch(lateral, bias, above, lateral),
        "gradient": sum_launch(lateral, above, sums),
        "gradient, odd": sum_launch(lateral, odd, sums),
    }
    wide, wide_above = empty(8, 264, 200, 304, **kind), empty(8, 264, 100, 152, **kind)
    made["merge with ones"] = merge_launch(lateral, bias, wide_above, wide)
    # A column: Triton compiles a size of 1 in.
    column, half = empty(8, 256, 200, 1, **kind), empty(8, 256, 100, 1, **kind)
    made["merge of a column"] = merge_launch(column, bias, half, column)
    made["gradient of a column"] = sum_launch(column, half, sums)
    made["weight"] = widen_launch(empty(256, 256, 3, 3), bias, empty(256, 264, 3, 3, **kind))
    return made


def double_launches(layout, dtype):
    """At the head's finest map of eight photos of 512 x 512, and at an odd size."""
    kind = {"dtype": dtype, "layout": layout}
    x, other = empty(8, 128, 128, 128, **kind), empty(8, 128, 64, 64, **kind)
    odd, column = empty(8, 128, 127, 127, **kind), empty(8, 128, 128, 1, **kind)
    made = {
        "sum": add_launch(x, other, x),
        "sum, odd": add_launch(odd, other, odd),
        "sum of columns": add_launch(column, other, column),
        "gradient of the sum": doubled_sum_launch(x, other),
        "gradient of the sum, odd": doubled_sum_launch(odd, other),
    }
    if layout == torch.channels_last:
        norm = empty(8, 32), empty(8, 32), empty(128), empty(128)
        made["norm and sum"] = add_launch(x, other, x, norm)
        made["norm and sum, odd"] = add_launch(odd, other, odd, norm)
    return made


def norm_launches(dtype):
    """At the head's finest map of eight photos of 512 x 512."""
    x = empty(8, 128, 128, 128, dtype=dtype, layout=torch.channels_last)
    mean, rstd, affine = empty(8, 32), empty(8, 32), (empty(128), empty(128))
    sums, shares = empty(8, 64, 2, 128), empty(2, 8, 32)
    of_chunks, of_groups = moment_launches(x, sums, mean, rstd, 1e-5)
    return {
        "moments of chunks": of_chunks,
        "moments of groups": of_groups,
        "norm": write_launch(x, mean, rstd, *affine, x),
        "norm and sum of one size": write_launch(x, mean, rstd, *affine, x, x),
        "sums of gradients": gradient_sum_launch(x, x, mean, rstd, *affine, sums),
        "gradient of norm": gradient_launch(x, x, mean, rstd, *affine, shares, x),
    }


@every_target
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_no_kernel_of_neck_or_head_spills(layout, dtype, capability):
    launches = neck_launches(layout, dtype) | double_launches(layout, dtype)
    if layout == torch.channels_last:
        launches |= norm_launches(dtype)
    needs = {name: resources(launch, capability) for name, launch in launches.items()}
    print(capability, dtype, layout, needs)
    for name, (registers, stack) in needs.items():
        assert stack == 0, name
        assert registers <= MOST_REGISTERS, name
