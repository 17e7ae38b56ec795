"""A map plus a coarser one that is doubled, with and without group norm, against float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.kernels import need_kernels
from torch import nn

from fpn_neck import SegHead, fast
from fpn_neck.fast.cuda_head import double
from fpn_neck.fast.cuda_head.double import Addend, add, add_doubled
from fpn_neck.fast.cuda_head.norm import group_norm_relu

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
SIZES = {  # the map's, the coarser one's
    "twice": ((4, 34), (2, 17)),
    "odd": ((5, 7), (3, 4)),
    "one axis odd": ((4, 5), (2, 3)),
    "two photos, a column": ((6, 1), (3, 1)),
    "one pixel": ((1, 1), (1, 1)),
    "from one pixel": ((2, 2), (1, 1)),
    "far larger": ((7, 9), (2, 2)),
    "smaller": ((2, 3), (5, 4)),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
CASES = [(s, layout, torch.float32) for s in SIZES for layout in LAYOUTS]
CASES += [("odd", "NHWC", dtype) for dtype in (torch.float16, torch.bfloat16)]
GN = {"type": "GN", "num_groups": 4}


def maps(device, sizes, layout="NHWC", dtype=torch.float32, channels=6, photos=1):
    kind = {"dtype": dtype, "device": device, "memory_format": LAYOUTS[layout]}
    return [torch.randn(photos, channels, *size).to(**kind).requires_grad_() for size in sizes]


def doubled(other, size):
    return Addend(other, doubled=True, align_corners=False).resized(size)


def twins(tensors):
    return [t.detach().cpu().double().requires_grad_() for t in tensors]


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        error = (a.detach().cpu().double() - b.detach().cpu().double()).abs().max()
        assert error <= tolerance * b.abs().max(), error


@pytest.mark.parametrize(("sizes", "layout", "dtype"), CASES, ids=str)
def test_values_and_gradients(sizes, layout, dtype, device):
    leaves = maps(device, SIZES[sizes], layout, dtype, photos=2 if "photos" in sizes else 1)
    x, other = twins(leaves)
    theirs = x + doubled(other, x.shape[-2:])
    ours = add_doubled(*leaves)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=LAYOUTS[layout])
    assert_close([ours, add_doubled(*(t.detach() for t in leaves))], [theirs] * 2, ROUNDING[dtype])
    grad = torch.randn(ours.shape).to(ours)
    expected = torch.autograd.grad(theirs, [x, other], grad.cpu().double())
    assert_close(torch.autograd.grad(ours, leaves, grad), expected, ROUNDING[dtype])


@pytest.mark.parametrize("name", ["twice", "odd", "same"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_the_norm_rides_along(name, dtype, device):
    sizes = SIZES.get(name, ((5, 7), (5, 7)))
    x, other = maps(device, sizes, dtype=dtype, photos=2)
    affine = [t.requires_grad_() for t in torch.randn(2, 6, device=device).unbind()]
    leaves = x, *affine, other
    others = twins(leaves)
    theirs = F.relu(F.group_norm(others[0], 3, *others[1:3]))
    theirs = theirs + (others[3] if name == "same" else doubled(others[3], sizes[0]))
    ours = group_norm_relu(x, 3, *affine, 1e-5, other, name != "same")
    assert ours.dtype == dtype and ours.stride() == x.stride()
    assert_close([ours], [theirs], ROUNDING[dtype])
    grad = torch.randn(ours.shape).to(ours)
    expected = torch.autograd.grad(theirs, others, grad.cpu().double())
    assert_close(torch.autograd.grad(ours, leaves, grad), expected, 2 * ROUNDING[dtype])


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("sizes", ["twice", "odd"])
def test_second_derivatives_and_batched_gradients(sizes, normed, device):
    x, other = leaves = maps(device, SIZES[sizes])
    affine = torch.randn(2, 6, device=device)

    def ours(x, other):
        if normed:
            return group_norm_relu(x, 3, *affine, 1e-5, other, True)
        return add_doubled(x, other)

    def theirs(x, other):
        y = F.relu(F.group_norm(x, 3, *affine)) if normed else x
        return y + doubled(other, x.shape[-2:])

    def derive(function):
        found = torch.autograd.grad(function(x, other).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in found), leaves)

    def batched(function):
        grads = torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(0)).to(device)
        return torch.autograd.grad(function(x, other), leaves, grads, is_grads_batched=True)

    assert_close(derive(ours), derive(theirs), 1e-4)
    assert_close(batched(ours), batched(theirs), 1e-5)


def test_what_a_coarser_map_does_not_give_is_not_read(device):
    """A weight of 0 times infinity would be NaN."""
    x, other = (t.detach() for t in maps(device, SIZES["twice"]))
    other[..., 9] = torch.inf
    assert add_doubled(x, other)[..., :17].isfinite().all()


def kernels_of(head, pyramid, patch):
    """Of what the head adds by kernels: 'norm, same', 'norm, doubled' or 'doubled'."""
    from fpn_neck.fast.cuda.launch import Launch

    started, run = [], Launch.run

    def record(launch):
        names = launch.constants
        if "DOUBLE" in names:
            started.append("norm, doubled" if names["WIDTH"] else "doubled")
        elif names.get("ADD"):
            started.append("norm, same")
        run(launch)

    patch.setattr(Launch, "run", record)
    out = head(pyramid)
    patch.undo()
    return out, started


def build(device, **options):
    torch.manual_seed(1)  # no number is so near 0 that rounding decides about its ReLU
    head = SegHead(4, 3, channels=8, norm_cfg=GN, dropout=0.0, **options).to(device)
    for p in head.parameters():
        nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return head


def pyramid_of(device, sizes, layout="NHWC"):
    return [x.detach() for x in maps(device, sizes, layout, channels=4)]


EVEN = [(8, 16), (4, 8), (2, 4), (1, 2)]
ODD = [(5, 7), (3, 4), (2, 3), (1, 2)]
OF_HEADS = {
    "even, NHWC": ({}, EVEN, "NHWC", ["norm, same"] * 2 + ["norm, doubled"]),
    "odd, NHWC": ({}, ODD, "NHWC", ["norm, doubled", "doubled", "doubled"]),
    "even, NCHW": ({}, EVEN, "NCHW", ["doubled"]),
    "corners": ({"align_corners": True}, EVEN, "NHWC", ["norm, same"] * 2),
    "one level": ({"strides": (4,)}, EVEN[:1], "NHWC", []),
    "equal strides": ({"strides": (4, 4)}, EVEN[:1] * 2, "NHWC", ["norm, same"]),
    "cat": ({"merge": "cat"}, EVEN, "NHWC", []),
}


@pytest.mark.parametrize("name", OF_HEADS)
def test_heads_take_it(name, device, monkeypatch):
    options, sizes, layout, expected = OF_HEADS[name]
    head, pyramid = build(device, **options), pyramid_of(device, sizes, layout)
    ours, kernels = kernels_of(head, pyramid, monkeypatch)
    with fast.enable(False):
        theirs = head(pyramid)
    assert kernels == expected
    assert_close([ours], [theirs], 1e-5)
    wanted = list(head.parameters())
    assert_close(*(torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)), 1e-5)
    with torch.no_grad():
        assert_close([head(pyramid)], [theirs], 1e-5)


def test_hooks_and_other_towers_are_called(device, monkeypatch):
    head, pyramid = build(device), pyramid_of(device, EVEN)
    calls = []
    head.scale_heads[0].register_forward_hook(lambda m, x, y: calls.append("tower"))
    head.scale_heads[1][0].register_forward_hook(lambda m, x, y: calls.append("block"))
    head.scale_heads[3] = nn.Sequential(*head.scale_heads[3], nn.Identity())
    ours, kernels = kernels_of(head, pyramid, monkeypatch)
    with fast.enable(False):
        theirs = head(pyramid)
    assert calls == ["block", "tower"] * 2
    assert kernels == ["norm, same", "doubled"]  # only the third tower is as it was
    assert_close([ours], [theirs], 1e-5)


def test_switched_off_it_gives_torchs_bits(device):
    """The sum in the order of the levels, each upsampled by torch."""
    head, pyramid = build(device), pyramid_of(device, EVEN)
    with fast.enable(False):
        ours = head(pyramid)
        first, *coarser = (t(x) for t, x in zip(head.scale_heads, pyramid, strict=True))
        up = F.interpolate(coarser[0] + coarser[1] + coarser[2], scale_factor=2, mode="bilinear")
        by_hand = head.conv_seg(first + up)
    assert torch.equal(ours, by_hand)


def test_autocast_and_mixed_dtypes(device):
    """A map in another dtype is torch's to add."""
    x, other = (t.detach() for t in maps(device, SIZES["twice"]))
    ours = add(x, Addend(other.bfloat16(), doubled=True, align_corners=False))
    assert_close([ours], [x + doubled(other, x.shape[-2:])], 0.02)
    head, pyramid = build(device), pyramid_of(device, EVEN)
    with torch.autocast(device.type, torch.bfloat16):
        ours = head(pyramid)
    assert_close([ours], [head(pyramid)], 0.05)


def test_float64_takes_torchs_operators(device, monkeypatch):
    head = build(device, strides=(4, 8)).double()
    pyramid = [x.double().requires_grad_() for x in pyramid_of(device, [(3, 5), (2, 3)])]
    assert kernels_of(head, pyramid, monkeypatch)[1] == []
    leaf = head.scale_heads[1][0].gn.weight
    assert torch.autograd.gradcheck(lambda *x: head(x[:2]), [*pyramid, leaf], fast_mode=True)


def test_the_gradient_is_the_same_every_time(device):
    grad = torch.randn(1, 6, 5, 9, device=device)
    first, again = (double.sum_doubled(grad, (3, 5)) for _ in range(2))
    assert torch.equal(first, again)
