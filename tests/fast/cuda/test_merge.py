"""The kernels of a step down the pyramid, against torch's operators in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.kernels import need_kernels

from fpn_neck.fast.cuda.merge import (
    MORE_CHANNELS,
    TERMS,
    add_upsampled,
    bias_as_channels,
    widened,
)
from fpn_neck.fast.cuda.merge import sum_targets as gradients

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
SIZES = {  # of the lateral, of the level above
    "double": ((6, 8), (3, 4)),
    "odd": ((5, 7), (3, 4)),
    "one pixel": ((1, 1), (1, 1)),
    "from one pixel": ((5, 3), (1, 1)),
    "same": ((4, 3), (4, 3)),
    "above is larger": ((3, 4), (7, 9)),
    "more than a tile": ((1, 131), (1, 67)),
}
# Of the largest value. Triton's interpreter truncates to bfloat16, where a GPU rounds.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def inputs(sizes, layout, device, dtype=torch.float32, channels=5, images=2):
    lateral, above = (
        torch.randn(images, channels, *size).to(dtype).contiguous(memory_format=layout).to(device)
        for size in sizes
    )
    return lateral, torch.randn(channels, device=device), above


def expected(lateral, bias, above):
    lateral, bias, above = (x.cpu().double() for x in (lateral, bias, above))
    return lateral + bias[:, None, None] + F.interpolate(above, size=lateral.shape[-2:])


def assert_close(ours, theirs, rounding):
    assert ours.shape == theirs.shape
    error = (ours.cpu().double() - theirs).abs().max()
    assert error <= rounding * theirs.abs().max(), error


CASES = [(name, torch.float32) for name in SIZES]
CASES += [("odd", torch.float16), ("odd", torch.bfloat16), ("double", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_sizes_and_dtypes(name, dtype, layout, device):
    lateral, bias, above = inputs(SIZES[name], layout, device, dtype)
    theirs = expected(lateral, bias, above)
    ours = add_upsampled(lateral, bias, above)
    assert ours is lateral and ours.is_contiguous(memory_format=layout)
    assert_close(ours, theirs, ROUNDING[dtype])
    grad = torch.randn(ours.shape).to(ours)
    level, sums = gradients(grad, above.shape[-2:], wants_sums=True)
    assert level.dtype == dtype and sums.dtype == torch.float32
    above, bias = (x.detach().cpu().double().requires_grad_() for x in (above, bias))
    value = expected(ours, bias, above)
    by_above, by_bias = torch.autograd.grad(value, [above, bias], grad.cpu().double())
    assert_close(level, by_above, ROUNDING[dtype])
    assert_close(sums, by_bias, 1e-5)


# At each, an index in float32 is another than in whole numbers: before it at all but the last.
@pytest.mark.parametrize(
    "lengths",
    [(22, 26), (46, 14), (82, 2), pytest.param((2047, 8195), marks=pytest.mark.slow)],
    ids=str,
)
def test_every_index_is_torchs(lengths, device):
    length, source = lengths
    places = torch.arange(length) * source // length
    for down in (False, True) if length < 50 else (False,):
        shapes = [(1, 1, n, 1) if down else (1, 1, 1, n) for n in lengths]
        above = torch.arange(float(source)).view(shapes[1]).to(device)
        ours = torch.zeros(shapes[0], device=device)
        add_upsampled(ours, torch.zeros(1, device=device), above)
        assert torch.equal(ours, F.interpolate(above, size=shapes[0][2:]))
        assert not torch.equal(ours.flatten().long().cpu(), places)
        sums, _ = gradients(torch.ones_like(ours), shapes[1][2:], wants_sums=False)
        counts = ours.flatten().long().bincount(minlength=source)
        assert torch.equal(sums.flatten(), counts.float())


def test_channels_of_more_than_a_block(layout, device):
    lateral, bias, above = inputs(((2, 3), (1, 2)), layout, device, channels=300, images=1)
    theirs = expected(lateral, bias, above)
    assert_close(add_upsampled(lateral, bias, above), theirs, 1e-6)
    level, sums = gradients(lateral, (1, 2), wants_sums=True)
    assert_close(sums, theirs.sum((0, 2, 3)), 1e-5)
    assert_close(level.sum((0, 2, 3)), theirs.sum((0, 2, 3)), 1e-5)


def test_no_photos(layout, device):
    lateral, bias, above = inputs(((4, 4), (2, 2)), layout, device, images=0)
    assert add_upsampled(lateral, bias, above).shape == (0, 5, 4, 4)
    level, sums = gradients(lateral, (2, 2), wants_sums=True)
    assert level.shape == (0, 5, 2, 2) and torch.equal(sums.cpu(), torch.zeros(5))


def test_layouts_of_others_and_strides(device):
    lateral, bias, above = inputs(((5, 7), (3, 4)), torch.channels_last, device)
    theirs = expected(lateral, bias, above)
    strided = torch.stack([bias, bias], 1)[:, 0]
    ours = add_upsampled(lateral, strided, above.contiguous())
    assert_close(ours, theirs, 1e-6)
    grad = torch.randn(1, device=device).expand(lateral.shape)
    level, sums = gradients(grad, (3, 4), wants_sums=True)
    assert_close(sums, grad.cpu().double().sum((0, 2, 3)), 1e-6)
    assert_close(level.sum((0, 2, 3)), sums.cpu().double(), 1e-6)


@pytest.mark.parametrize("sizes", [((5, 7), (3, 4)), ((1, 1), (1, 1)), ((4, 1), (2, 1))], ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_bias_as_channels(dtype, sizes, layout, device):
    """No pass for the bias, and the same values, also at the borders."""
    lateral, bias, above = inputs(sizes, layout, device, dtype)
    with_ones = add_upsampled(lateral.clone(), bias, above, with_ones=True)
    ours = add_upsampled(lateral, bias, above)
    wide = widened(with_ones)
    assert torch.equal(with_ones, ours) and wide.is_contiguous(memory_format=layout)
    ones = wide[:, 5:].mean((0, 2, 3))
    assert ones.tolist() == [1.0] * TERMS + [0.0] * (MORE_CHANNELS - TERMS)
    weight, bias = torch.randn(6, 5, 3, 3, device=device).to(dtype), torch.randn(6, device=device)
    further = bias_as_channels(weight, bias, wide)
    found = F.conv2d(wide, further, padding=1)
    assert sizes[0] == (1, 1) or further.is_contiguous(memory_format=layout)
    theirs = F.conv2d(ours.cpu().double(), weight.cpu().double(), bias.cpu().double(), padding=1)
    assert_close(found, theirs, ROUNDING[dtype])


def test_the_level_above_may_have_ones(layout, device):
    lateral, bias, above = inputs(((4, 6), (2, 3)), layout, device)
    twin = above.clone()
    no_bias = torch.zeros_like(bias)
    above = add_upsampled(above, no_bias, torch.zeros_like(above), with_ones=True)
    assert widened(above) is not None and widened(twin) is None
    theirs = add_upsampled(lateral.clone(), bias, twin)
    assert torch.equal(add_upsampled(lateral.clone(), bias, above), theirs)
    assert torch.equal(add_upsampled(lateral, bias, above, with_ones=True), theirs)


@pytest.mark.parametrize("strides", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_bias_of_float32_loses_nothing_as_channels(strides, layout, device):
    bias = (torch.randn(65) * torch.logspace(-6, 6, 65)).to(device)
    bias[0] = torch.inf
    weight = torch.randn(65, 2, 3, 3).to(device, memory_format=strides)
    like = torch.empty(1, 10, 2, 2, device=device).to(memory_format=layout)
    found = bias_as_channels(weight, bias, like)
    further = found[:, 2:]
    assert torch.equal(found[:, :2], weight)
    assert torch.equal(further[:, :, 1, 1].double().sum(1), bias.double())
    assert further.count_nonzero() == further[:, :TERMS, 1, 1].count_nonzero()
    for part in further[:, :TERMS, 1, 1].unbind(1):
        assert torch.equal(part, part.bfloat16().float())
