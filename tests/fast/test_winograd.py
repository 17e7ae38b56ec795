"""fpn_neck.fast.cpu.winograd and conv3x3: Winograd's convolution against torch's in float64.

Tolerances: `helpers.fast_paths.TOLERANCE`.
"""

import copy
import ctypes
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.fast_paths import TOLERANCE, assert_close, set_limits
from torch import nn
from torch.autograd import forward_ad

from fpn_neck import FPN, fast
from fpn_neck.fast.cpu import processor, products, winograd
from fpn_neck.fast.cpu.conv3x3 import conv3x3, run_conv
from fpn_neck.fast.cpu.processor import Limit

# 64 x 32 numbers are a multiple of 4096 bytes in every dtype.
SIZES = [(1, 1), (1, 9), (4, 4), (5, 3), (7, 9), (16, 24), (33, 130), (2, 700), (300, 3), (13, 645)]
SIZES += [(64, 32)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.usefixtures("any_size")
def test_forward_mode_derivatives_of_a_convolution():
    conv, x, tangent = nn.Conv2d(3, 5, 3, padding=1), *torch.randn(2, 2, 3, 9, 11)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(run_conv(conv, forward_ad.make_dual(x, tangent)))
        assert found.tangent is not None
        torch.testing.assert_close(found.tangent, F.conv2d(tangent, conv.weight, padding=1))


def direct(x, weight, bias):
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("out_layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("threads")
def test_convolution_and_gradients(size, layout, out_layout, dtype):
    for batch, c, o in [(1, 3, 5), (2, 5, 2), (3, 1, 1), (1, 18, 10)]:
        x = torch.randn(batch, c, *size, dtype=dtype).to(memory_format=layout)
        weight, bias = torch.randn(o, c, 3, 3, dtype=dtype), torch.randn(o, dtype=dtype)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        last = out_layout == torch.channels_last
        ours, expected = conv3x3(*leaves, channels_last=last), direct(*leaves)
        assert ours.is_contiguous(memory_format=out_layout) and ours.dtype == dtype
        assert_close(ours, expected, TOLERANCE[dtype])

        grad = torch.randn(expected.shape, dtype=dtype).to(memory_format=out_layout)
        grads = torch.autograd.grad(ours, leaves, grad)
        expected_grads = torch.autograd.grad(expected, leaves, grad.double())
        for a, b in zip(grads, expected_grads, strict=True):
            assert_close(a, b, TOLERANCE[dtype])


def test_error_at_the_papers_width_is_near_the_direct_convolutions():
    x, weight = torch.randn(1, 256, 24, 36) + 0.5, torch.randn(256, 256, 3, 3) / 48
    bias = torch.randn(256)
    expected = direct(x, weight, bias)
    with torch.no_grad():
        ours = conv3x3(x, weight, bias, channels_last=False)
    assert_close(ours, expected, 1e-5)
    assert (ours - expected).norm() / expected.norm() < 2e-6


def test_the_error_is_of_the_largest_value_in_its_window():
    """docs/performance.md, Accuracy: an outlier spoils its own 6x6 windows only."""
    x, weight = torch.randn(1, 256, 24, 36), torch.randn(256, 256, 3, 3) / 48
    bias = torch.randn(256)
    x[0, 7, 10, 13] = 1e4
    expected = direct(x, weight, bias)
    with torch.no_grad():
        error = (conv3x3(x, weight, bias, channels_last=False) - expected).abs()[0].amax(0)
    near, reached = torch.zeros(2, 24, 36, dtype=torch.bool)
    near[8:12, 12:16] = True  # the tile of the outlier's pixel: rows and columns are multiples of 4
    reached[9:12, 12:15] = True  # by the outlier itself
    others = expected[0].abs().amax(0)[~reached].max()
    assert error[~near].max() < 5e-6 * others
    assert 1e-5 * others < error[near & ~reached].max() < 5e-4 * others
    assert error.max() < 1e-5 * expected.abs().max()


def test_second_derivatives():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(*leaves):
        return conv3x3(*leaves, channels_last=False)

    assert torch.autograd.gradcheck(call, (x, weight, bias))
    assert torch.autograd.gradgradcheck(call, (x, weight, bias))


@pytest.mark.parametrize("wanted", range(3))
def test_one_gradient_alone(wanted):
    leaves = [torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3), torch.randn(3)]
    leaves[wanted].requires_grad_()
    (ours,) = torch.autograd.grad(conv3x3(*leaves, channels_last=True).sum(), leaves[wanted])
    (expected,) = torch.autograd.grad(direct(*leaves).sum(), leaves[wanted])
    assert_close(ours, expected, 1e-5)


def test_a_gradient_that_is_expanded():
    x = torch.randn(2, 3, 9, 7, requires_grad=True)
    weight, bias = torch.randn(4, 3, 3, 3), torch.randn(4)
    conv3x3(x, weight, bias, channels_last=False).mean().backward()
    grad, x.grad = x.grad, None
    direct(x, weight, bias).mean().backward()
    assert_close(grad, x.grad, 1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_row_is_asked_for_in_order_and_by_pairs(size, threads):
    """Once, but for the margins where one run ends and the next begins."""
    x = torch.randn(2, 1, *size)
    (grid, runs), asked = winograd._plan(x), []

    def fill(n, start, end, target):
        assert start % 2 == 0 and (end % 2 == 0 or end == size[0])
        asked[-1].extend((n, y) for y in range(start, end))
        target.copy_(x[n, :, start:end])

    for run in runs:
        asked.append([])
        for n, y, strip in winograd._strips(fill, x, 1, grid, run):
            rows = F.pad(x[n], (1, 1 + strip.shape[2], 1, 1 + strip.shape[1]))
            assert torch.equal(strip, rows[:, y : y + strip.shape[1], : strip.shape[2]])
    assert len(asked) <= threads and all(run == sorted(set(run)) for run in asked)
    every = [(n, y) for n in range(2) for y in range(size[0])]
    assert sorted({row for run in asked for row in run}) == every
    assert sum(map(len, asked)) <= len(every) + 2 * winograd.MARGIN_ROWS * (threads - 1)


# The transformed weights are kept between calls -------------------------------------------------

CHANGES = {
    "in place": lambda conv: conv.weight.detach().mul_(2),
    "through .data, unseen by version counters": lambda conv: conv.weight.data.mul_(2),
    "another tensor": lambda conv: setattr(conv.weight, "data", conv.weight.data * 2),
    "another parameter": lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight * 2)),
    "one number": lambda conv: conv.weight.data.view(-1)[7].add_(1),
    "load_state_dict": lambda conv: conv.load_state_dict(nn.Conv2d(3, 4, 3).state_dict()),
    "layout": lambda conv: conv.to(memory_format=torch.channels_last).weight.data.mul_(2),
    "not a number": lambda conv: conv.weight.data.fill_(float("nan")),
}


def run(conv, x):
    return conv3x3(x, conv.weight, conv.bias, False, conv)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.no_grad()
def test_changed_weights_are_seen(change):
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 7)
    for _ in range(2):
        run(conv, x)
    before = conv(x)
    change(conv)
    ours = run(conv, x)
    expected = conv(x)
    assert not torch.equal(before, expected)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0, equal_nan=True)


@torch.no_grad()
def test_copies_of_a_module_have_their_own():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 7)
    ours = run(conv, x)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        conv.weight.data.mul_(1.5)
        run(conv, x)
        assert torch.equal(run(twin, x), ours)


@torch.no_grad()
def test_nothing_is_kept_for_a_convolution_that_is_gone():
    from fpn_neck.fast.cpu.conv3x3 import _transforms

    conv, x, before = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 4, 4), len(_transforms)
    run(conv, x)
    assert len(_transforms) == before + 1
    conv3x3(x, conv.weight, conv.bias, channels_last=False)  # without an owner
    assert len(_transforms) == before + 1
    del conv
    assert len(_transforms) == before


FORGET = {
    "train()": lambda model: model.train(),
    "to()": lambda model: model.to(torch.float32),
    "forget_weights": lambda model: fast.forget_weights(model),
    "forget_weights of all": lambda model: fast.forget_weights(),
}


@pytest.mark.parametrize("forget", FORGET.values(), ids=FORGET.keys())
@pytest.mark.usefixtures("any_size")
@torch.no_grad()
def test_kept_weights_can_be_freed(forget):
    from fpn_neck.fast.cpu.conv3x3 import _transforms

    model, maps = FPN([3, 5], 4).eval(), [torch.randn(1, 3, 12, 8), torch.randn(1, 5, 6, 4)]
    expected = model(maps)
    convs = [block.conv for block in model.fpn_convs]
    assert all(conv in _transforms for conv in convs)
    model.eval()
    assert all(conv in _transforms for conv in convs)
    forget(model)
    assert not any(conv in _transforms for conv in convs)
    assert all(torch.equal(a, b) for a, b in zip(model.eval()(maps), expected, strict=True))


def test_weights_can_be_swapped():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 11)
    with torch.no_grad():
        run(conv, x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        conv.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert conv.weight.dtype == torch.float64


# New maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 700])
def test_new_maps_are_dense_and_writable(channels, layout):
    from fpn_neck.fast.cpu.memory import new_map

    like = torch.randn(2, 5, 40, 50, dtype=torch.float64)  # 700 channels: 11 MB, huge pages
    out = new_map(like, channels, layout == torch.channels_last, torch.float32)
    assert out.shape == (2, channels, 40, 50) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=layout)
    assert out.fill_(1).sum() == out.numel()


def test_weights_that_change_their_dtype_are_transformed_anew():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 11)
    with torch.no_grad():
        run(conv, x)
        conv.double()
        found = run(conv, x.double())
        assert_close(found, conv(x.double()), TOLERANCE[torch.float64])


def test_the_default_device_does_not_matter():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 11)
    with torch.no_grad(), torch.device("meta"):
        found = run(conv, x)
    assert found.device.type == "cpu"
    assert_close(found, conv(x).detach(), TOLERANCE[torch.float32])


@pytest.mark.usefixtures("any_size")
def test_a_map_without_a_batch_is_torchs():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(3, 9, 11)
    torch.testing.assert_close(run_conv(conv, x), conv(x), atol=0, rtol=0)


@pytest.mark.parametrize("width", [192, 201])  # 192 x 192: multiples of 4096 bytes
@pytest.mark.usefixtures("any_size")
def test_a_map_of_another_number_of_channels_is_refused_by_torch(width):
    conv = nn.Conv2d(8, 8, 3, padding=1)
    for channels in (1, 4, 9):
        with pytest.raises(RuntimeError, match="to have 8 channels"):
            run_conv(conv, torch.randn(1, channels, 192, width))


# Only the weight's gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "weight"])
def test_only_the_weights_gradient_is_winograds(frozen, bias, dtype, monkeypatch):
    set_limits(monkeypatch, training=Limit(channels=99), weight_gradient=Limit(5, 0, 0))
    conv = nn.Conv2d(5, 6, 3, padding=1, bias=bias).to(dtype)
    x = torch.randn(2, 5, 9, 10, dtype=dtype).to(memory_format=torch.channels_last)
    grad = torch.randn(2, 6, 9, 10, dtype=dtype)
    leaves = [t.requires_grad_(name != frozen) for name, t in named_leaves(conv, x)]
    out = run_conv(conv, x)
    assert torch.equal(out, conv(x))
    assert ("Conv3x3" in out.grad_fn.name()) == (frozen != "weight")
    out.backward(grad)

    exact, like = copy.deepcopy(conv).double(), x.detach().double().requires_grad_(frozen != "x")
    exact.zero_grad()
    exact(like).backward(grad.double())
    for leaf, (name, expected) in zip(leaves, named_leaves(exact, like), strict=True):
        if name == frozen:
            assert leaf.grad is None
        else:
            assert_close(leaf.grad, expected.grad, TOLERANCE[dtype])


def named_leaves(conv, x):
    return [("x", x), *conv.named_parameters()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("channels", [4, 5])
def test_of_contiguous_narrow_and_small_maps_it_is_torchs(channels, layout, monkeypatch):
    set_limits(monkeypatch, training=Limit(channels=99), weight_gradient=Limit(5, 0, 0, pixels=40))
    conv, least = nn.Conv2d(channels, 6, 3, padding=1), 40 * torch.get_num_threads()
    for pixels in (least - 2, least):
        x = torch.randn(1, channels, 2, pixels // 2).to(memory_format=layout)
        taken = "Conv3x3" in run_conv(conv, x).grad_fn.name()
        assert taken == (channels == 5 and layout == LAYOUTS[1] and pixels == least)


# Whose products ---------------------------------------------------------------------------------


needs_onednn = pytest.mark.skipif(
    not processor._has_onednn(), reason="torch without oneDNN's packed weights"
)


def _prefer_onednn(monkeypatch, preferred=True):
    """On every processor, from 96 channels on."""
    set_limits(monkeypatch, onednn_channels=96 if preferred else None)


@needs_onednn
@pytest.mark.parametrize("out_layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.usefixtures("threads")
def test_products_of_either_library(kept, out_layout, monkeypatch):
    """Kept weights, and weights that are used once for maps that are worth packing them."""
    monkeypatch.setattr(products, "LEAST_TILES", 100)  # for each of 5 threads
    last = out_layout == torch.channels_last
    conv, x = nn.Conv2d(96, 112, 3, padding=1), torch.randn(1, 96, 90, 100)
    with torch.no_grad():
        expected = direct(x, conv.weight, conv.bias)
    for onednn in (True, False):
        _prefer_onednn(monkeypatch, onednn)
        kind = products.GroupedProducts if onednn else products.BatchedProducts
        assert type(winograd.transform_weight(conv.weight, None if kept else x)) is kind
        owner = copy.deepcopy(conv) if kept else None
        with torch.no_grad():
            found = conv3x3(x, conv.weight, conv.bias, last, owner)
            plain = conv3x3(x, conv.weight, None, last, owner)
        assert found.is_contiguous(memory_format=out_layout)
        assert_close(found, expected, TOLERANCE[torch.float32])
        assert_close(plain, expected - conv.bias[:, None, None].double(), 1e-5)


@pytest.mark.parametrize(
    ("o", "c", "dtype", "tiles"),
    [
        (100, 96, torch.float32, None),  # no multiple of 16
        (96, 64, torch.float32, None),
        (96, 96, torch.float64, None),
        (96, 96, torch.float32, products.LEAST_TILES - 1),
    ],
)
def test_products_that_are_not_for_onednn(o, c, dtype, tiles, monkeypatch):
    _prefer_onednn(monkeypatch)
    weight = torch.randn(36, o, c, dtype=dtype)
    assert type(products.best_products(weight, tiles)) is products.BatchedProducts


@needs_onednn
def test_a_kept_weight_is_packed_for_each_number_of_tiles(capfd):
    """Photos of many sizes: oneDNN wants other orders for some, and would make them every time."""
    channels = 256
    weight = torch.randn(36, channels, channels)
    grouped, batched = products.GroupedProducts(weight), products.BatchedProducts(weight)
    matrices = winograd._matrices(torch.float32)
    for tiles in (80, 112, 8, 200, 25, 80):
        found, expected = (
            kind.block((1, tiles), matrices, None, True) for kind in (grouped, batched)
        )
        windows = torch.randn_like(found.windows)
        for block in (found, expected):
            block.windows.copy_(windows)
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            result = found.tiles()
        ctypes.CDLL(None).fflush(None)  # oneDNN's lines wait in C's buffer
        lines = capfd.readouterr().out
        assert "exec,cpu,convolution" in lines
        assert "reorder" not in lines, tiles
        assert_close(result, expected.tiles(), TOLERANCE[torch.float32])


@needs_onednn
def test_photos_of_changing_sizes_do_not_pack_a_kept_weight_again(monkeypatch):
    packed, pack = [], products._pack
    monkeypatch.setattr(products, "_pack", lambda w, tiles: packed.append(tiles) or pack(w, tiles))
    grouped = products.GroupedProducts(torch.randn(36, 256, 256))
    sizes = [80, 112, 8, 200, 25]
    weights = [grouped.packed(tiles) for tiles in sizes]
    packed.clear()
    assert all(grouped.packed(t) is w for t, w in zip(sizes, weights, strict=True))
    other = products.GroupedProducts(torch.randn(36, 256, 256))
    for tiles in sizes:
        other.packed(tiles)
    assert len(packed) == len({id(w) for w in weights}) == len(grouped._weights)
