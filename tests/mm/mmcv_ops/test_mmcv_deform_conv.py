"""DeformConv2d and ModulatedDeformConv2d of mmcv.ops on the substitute for mmcv._ext."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.autograd import gradcheck

from fpn_neck.mm.mmcv_ops import install

pytest.importorskip("mmcv")
install()
ops = importlib.import_module("mmcv.ops")
ext = importlib.import_module("mmcv._ext")

GEOMETRY = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}  # summation order


def output_size(x, kernel, stride, padding, dilation):
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = zip(x.shape[2:], padding, reach, stride, strict=True)
    return [(n + 2 * p - r) // s + 1 for n, p, r, s in sizes]


@pytest.fixture
def case(random, device):
    """Input of 4 channels, kernel (3, 2), 2 groups and 2 deformable groups, offsets up to 2."""
    x = random(2, 4, 6, 7)
    size = output_size(x, (3, 2), **GEOMETRY)
    offset, mask = random(2, 2 * 2 * 6, *size) * 4 - 2, random(2, 2 * 6, *size)
    weight, bias = random(6, 2, 3, 2) - 0.5, random(6)
    return [t.to(device).requires_grad_() for t in (x, offset, weight, mask, bias)]


def grads_of(out, tensors):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device)
    return torch.autograd.grad((out * weight.view_as(out)).sum(), tensors)


def deform(x, offset, weight):
    return ops.deform_conv2d(
        x, offset, weight, *(GEOMETRY[k] for k in ("stride", "padding", "dilation")), 2, 2
    )


def modulated(x, offset, weight, mask, bias=None):
    geometry = (GEOMETRY[k] for k in ("stride", "padding", "dilation"))
    return ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry, 2, 2)


def assert_equal_with_grads(actual, expected, tensors):
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    for a, e in zip(grads_of(actual, tensors), grads_of(expected, tensors), strict=True):
        torch.testing.assert_close(a, e, **TOLERANCE)


def test_v1_is_torchvisions(case):
    x, offset, weight, _, _ = case
    expected = torchvision.ops.deform_conv2d(x, offset, weight, **GEOMETRY)
    assert_equal_with_grads(deform(x, offset, weight), expected, [x, offset, weight])


@pytest.mark.parametrize("with_bias", [True, False])
def test_v2_is_torchvisions(case, with_bias):
    x, offset, weight, mask, bias = case
    bias = bias if with_bias else None
    expected = torchvision.ops.deform_conv2d(x, offset, weight, bias, mask=mask, **GEOMETRY)
    actual = modulated(x, offset, weight, mask, bias)
    assert_equal_with_grads(actual, expected, [t for t in case if t is not case[4] or with_bias])


def test_gradients(case):
    settings = {"nondet_tol": 1e-10, "fast_mode": True}  # along random directions
    assert gradcheck(deform, case[:3], **settings)
    assert gradcheck(modulated, case, **settings)


def test_without_offsets_it_is_a_convolution(case):
    x, offset, weight, _, _ = case
    expected = F.conv2d(x, weight, **GEOMETRY, groups=2)
    assert_equal_with_grads(deform(x, offset.detach() * 0, weight), expected, [x, weight])


def test_offsets_are_dy_dx(case):
    x, offset, weight, _, _ = case
    offset = torch.zeros_like(offset)
    offset[:, 0::2] = 1  # every sample one row further down
    expected = F.conv2d(F.pad(x, (0, 0, 0, 1))[:, :, 1:], weight, groups=2, **GEOMETRY)
    inner = slice(1, -1)  # row -1, padding before, is image now
    torch.testing.assert_close(
        deform(x, offset, weight)[:, :, inner], expected[:, :, inner], **TOLERANCE
    )


def test_steps_through_the_batch_change_nothing(case):
    x, offset, weight, _, _ = (t.detach() for t in case)
    geometry = [GEOMETRY[k] for k in ("stride", "padding", "dilation")]
    one, two = (
        ops.deform_conv2d(x, offset, weight, *geometry, 2, 2, False, step) for step in (1, 2)
    )
    torch.testing.assert_close(one, two, **TOLERANCE)


def test_input_smaller_than_the_kernel(random, device):
    x, offset = random(1, 1, 2, 2).to(device), random(1, 18, 2, 2).to(device)
    layer = ops.DeformConv2d(1, 1, 3, padding=1).double().to(device)
    expected = torchvision.ops.deform_conv2d(x, offset, layer.weight, padding=1)
    torch.testing.assert_close(layer(x, offset), expected, **TOLERANCE)


def test_offset_gradient_where_the_outside_begins(device):
    """At a sample exactly one pixel outside, mmcv's derivative is 0; see `_at_kink`."""
    x = torch.full((1, 1, 1, 1), 3.0, device=device)
    offset = torch.zeros(1, 2, 3, 3, device=device, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1, device=device)
    out = ops.deform_conv2d(x, offset, weight, 1, 1)
    (grad,) = torch.autograd.grad(out.sum(), offset)
    expected = torch.zeros(1, 2, 3, 3, device=device)
    expected[:, :, 1, 1] = -3  # towards the zero below and to the right
    assert torch.equal(grad, expected)


def test_parameter_gradient_is_scaled_and_added(case):
    x, offset, weight, _, _ = case
    out = deform(x, offset, weight)
    (expected,) = torch.autograd.grad(out.sum(), weight)
    buffer = torch.ones_like(weight)
    ext.deform_conv_backward_parameters(
        x.detach(), offset.detach(), torch.ones_like(out), buffer, x.new_empty(0), x.new_empty(0),
        kW=2, kH=3, dW=1, dH=2, padW=2, padH=1, dilationW=2, dilationH=1,
        group=2, deformable_group=2, scale=0.5, im2col_step=2,
    )  # fmt: skip
    torch.testing.assert_close(buffer, 1 + 0.5 * expected, **TOLERANCE)


def test_no_images(case):
    """mmcv's layers refuse an empty batch themselves; the operators below them do not."""
    x, offset, weight, mask, bias = (t.detach() for t in case)
    x, offset, mask = x[:0], offset[:0], mask[:0]
    out = x.new_empty(0, 6, *offset.shape[2:])
    unused = x.new_empty(0)
    sizes = {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "pad_h": 1, "pad_w": 2}
    sizes |= {"dilation_h": 1, "dilation_w": 2, "group": 2, "deformable_group": 2}
    ext.modulated_deform_conv_forward(
        x, weight, bias, unused, offset, mask, out, unused, **sizes, with_bias=True
    )
    grads = [torch.zeros_like(t) for t in (x, weight, bias, offset, mask)]
    ext.modulated_deform_conv_backward(
        x, weight, bias, unused, offset, mask, unused, *grads, out, **sizes, with_bias=True
    )
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(case, dtype):
    narrow = [t.detach().to(dtype).requires_grad_() for t in case]
    wide = [t.detach().float().requires_grad_() for t in narrow]
    actual, expected = modulated(*narrow), modulated(*wide)
    assert actual.dtype == dtype
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.float(), expected, rtol=precision, atol=precision)
    for a, e in zip(grads_of(actual, narrow), grads_of(expected, wide), strict=True):
        torch.testing.assert_close(a.float(), e, rtol=4 * precision, atol=20 * precision)


# ------------------------------------------------------------------------- maps of another size


def first_numbers(x, size):
    count = x.shape[1] * size[0] * size[1]
    return x.reshape(len(x), -1)[:, :count].reshape(len(x), x.shape[1], *size)


@pytest.mark.parametrize("stride", [1, 2])
def test_larger_offsets_and_masks_are_read_as_mmcvs_kernels_do(stride):
    """DyHead: a convolution of a coarser level gets the offsets of a finer one."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(2, 18, 10, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 9, 10, 12, dtype=torch.float64, requires_grad=True)
    size = -(-5 // stride), -(-6 // stride)
    inputs = x, offset, mask, weight
    found = ops.modulated_deform_conv2d(*inputs, None, stride, 1)
    own = [x, first_numbers(offset, size), first_numbers(mask, size), weight]
    expected = ops.modulated_deform_conv2d(*own, None, stride, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    pull = torch.randn_like(found)
    grads = [torch.autograd.grad(y, inputs, pull) for y in (found, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_offset_that_is_not_finite_gives_nan_there_and_ends_no_process(modulated, value):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    weight = torch.randn(3, 4, 3, 3, requires_grad=True)
    offset, mask = torch.zeros(2, 18, 5, 6), torch.ones(2, 9, 5, 6)
    offset[1, 7, 2, 3] = value
    offset.requires_grad_()
    if modulated:
        found = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    else:
        found = ops.deform_conv2d(x, offset, weight, 1, 1)
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    broken = torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    broken[1, 0, 2, 3] = True
    assert found.isnan().equal(broken.expand_as(found))
    torch.testing.assert_close(found.where(~broken, expected), expected)
    found.nan_to_num().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, weight, offset))


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda x, offset, mask, weight: (x, offset[:, :9], mask, weight), "offset of shape"),
        (lambda x, offset, mask, weight: (x, offset[:1], mask, weight), "offset of shape"),
        (lambda x, offset, mask, weight: (x, offset[:, :, :4], mask, weight), "offset of shape"),
        (lambda x, offset, mask, weight: (x, offset, mask[:, :4], weight), "mask of shape"),
        (lambda x, offset, mask, weight: (x, offset, mask, weight[:, :3]), "weight of shape"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(change, named):
    tensors = torch.zeros(2, 4, 8, 8), torch.zeros(2, 18, 8, 8), torch.zeros(2, 9, 8, 8)
    x, offset, mask, weight = change(*tensors, torch.zeros(4, 4, 3, 3))
    with pytest.raises(ValueError, match=named):
        ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    if named != "mask of shape":
        with pytest.raises(ValueError, match=named):
            ops.deform_conv2d(x, offset, weight, 1, 1)


def test_deformable_groups_that_do_not_divide_the_channels_are_named():
    x, offset, mask = torch.zeros(1, 4, 8, 8), torch.zeros(1, 54, 8, 8), torch.zeros(1, 27, 8, 8)
    with pytest.raises(ValueError, match="deform_groups=3"):
        ops.modulated_deform_conv2d(x, offset, mask, torch.zeros(4, 4, 3, 3), None, 1, 1, 1, 1, 3)
