"""RoIAlign and RoIPool of mmcv.ops on the substitute for mmcv._ext."""

import importlib
import math

import pytest
import torch
import torchvision
from torch.autograd import gradcheck

from fpn_neck.mm.mmcv_ops import install

pytest.importorskip("mmcv")
install()
ops = importlib.import_module("mmcv.ops")

# in pixels of images twice the size of the 9 x 11 feature maps: inside, small, over each border
REGIONS = torch.tensor(
    [
        [0, 2.3, 3.1, 15.7, 14.2],
        [1, 7.7, 2.4, 9.1, 3.3],
        [1, -5.2, -3.9, 8.3, 6.1],
        [0, 11.6, 10.2, 30.4, 24.8],
    ],
    dtype=torch.float64,
)


@pytest.fixture
def features(random, device):
    return (random(2, 3, 9, 11) - 0.5).to(device).requires_grad_()


def values_and_grad(function, features):
    """Result and gradient of a weighted sum of it, which tells all its elements apart."""
    out = function(features)
    weight = torch.linspace(1, 2, out.numel(), dtype=out.dtype, device=out.device)
    (grad,) = torch.autograd.grad((out * weight.view_as(out)).sum(), features)
    return out.detach(), grad


def bilinear(plane, y, x):
    """Reading of a map, 0 further than a pixel outside and its border value nearer."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    dy, dx = y - top, x - left
    (a, b), (c, d) = plane[top : top + 2, left : left + 2].tolist()
    return (1 - dy) * ((1 - dx) * a + dx * b) + dy * ((1 - dx) * c + dx * d)


def align_max_reference(features, rois, size, scale, ratio, aligned):
    out = torch.empty(len(rois), features.shape[1], *size, dtype=features.dtype)
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in box)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        ny, nx = (ratio or math.ceil(e / n) for e, n in zip((height, width), size, strict=True))
        for c, i, j in torch.cartesian_prod(*map(torch.arange, out.shape[1:])).tolist():
            out[k, c, i, j] = max(
                bilinear(
                    features[int(image), c],
                    y1 + (i + (a + 0.5) / ny) * height / size[0],
                    x1 + (j + (b + 0.5) / nx) * width / size[1],
                )
                for a in range(ny)
                for b in range(nx)
            )
    return out


def pool_reference(features, rois, size, scale):
    """mmcv's RoIPool in exact arithmetic: scale [x1, x2 + 1), divide, round outwards, clip."""
    height, width = features.shape[2:]
    out = features.new_zeros(len(rois), features.shape[1], *size)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        step_y, step_x = (y2 - y1) / size[0], (x2 - x1) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = max(math.floor(y1 + i * step_y), 0), max(math.floor(x1 + j * step_x), 0)
                bottom = min(math.ceil(y1 + (i + 1) * step_y), height)
                right = min(math.ceil(x1 + (j + 1) * step_x), width)
                if top < bottom and left < right:
                    bin_ = features[int(image), :, top:bottom, left:right]
                    out[k, :, i, j] = bin_.amax(dim=(1, 2))
    return out


def assert_same(actual, expected, tolerance=1e-12):
    """Equal values and gradients; summation order is free on CUDA."""
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_align_average_is_torchvisions(features, aligned, ratio):
    rois = REGIONS.to(features.device)
    align = ops.RoIAlign((3, 2), 0.5, ratio, "avg", aligned)
    assert_same(
        values_and_grad(lambda x: align(x, rois), features),
        values_and_grad(
            lambda x: torchvision.ops.roi_align(x, rois, (3, 2), 0.5, ratio, aligned), features
        ),
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_align_maximum_is_of_the_readings(features, aligned, ratio):
    rois = REGIONS.to(features.device)
    out = ops.RoIAlign((3, 2), 0.5, ratio, "max", aligned)(features, rois)
    expected = align_max_reference(features.cpu(), REGIONS, (3, 2), 0.5, ratio, aligned)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_align_maximum_tells_its_place(features):
    rois = REGIONS[:2].to(features.device)
    out, rows, columns = (features.new_zeros(2, 3, 3, 2) for _ in range(3))
    ext = importlib.import_module("mmcv._ext")
    ext.roi_align_forward(
        features.detach(), rois, out, rows, columns,
        aligned_height=3, aligned_width=2, spatial_scale=0.5,
        sampling_ratio=2, pool_mode=0, aligned=True,
    )  # fmt: skip
    for k, c, i, j in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        plane = features[int(rois[k, 0]), c].detach().cpu()
        reading = bilinear(plane, rows[k, c, i, j].item(), columns[k, c, i, j].item())
        assert reading == pytest.approx(out[k, c, i, j].item(), abs=1e-12)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_align_gradient(features, mode, aligned, ratio):
    align = ops.RoIAlign((3, 2), 0.5, ratio, mode, aligned)
    assert gradcheck(align, (features, REGIONS.to(features.device)), eps=1e-7, nondet_tol=1e-12)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("corner", [4.0, 3.0])
def test_align_region_without_samples_is_mmcvs_start_value(features, mode, corner):
    rois = torch.tensor([[0, 4.0, 4, corner, corner]], dtype=torch.float64, device=features.device)
    out, grad = values_and_grad(lambda x: ops.RoIAlign(2, 0.5, 0, mode)(x, rois), features)
    assert (out == (0 if mode == "avg" else -10000)).all() and not grad.any()


POOLS = {
    "avg": lambda ratio: ops.RoIAlign((2, 3), 0.5, ratio, "avg"),
    "max": lambda ratio: ops.RoIAlign((2, 3), 0.5, ratio, "max"),
    "legacy": lambda ratio: ops.RoIAlign((2, 3), 0.5, ratio, "avg", aligned=False),
    "pool": lambda ratio: ops.RoIPool((2, 3), 0.5),
    "deformable": lambda ratio: ops.DeformRoIPool((2, 3), 0.5, ratio),
}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_region_that_is_not_finite_gives_nan_and_ends_no_process(
    features, kind, ratio, value, place
):
    rois = torch.tensor([[0, 1.0, 1, 9, 7], [1, 2, 2, 8, 8]], dtype=torch.float64)
    rois = rois.to(features.device)
    good = POOLS[kind](ratio)(features, rois)
    rois[1, place] = value
    out, grad = values_and_grad(lambda x: POOLS[kind](ratio)(x, rois), features)
    assert out[1].isnan().all() and torch.equal(out[0], good[0]) and grad.isfinite().all()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("side", [1.835e6, 1e30])
def test_a_region_of_too_many_samples_gives_nan_and_ends_no_process(features, mode, side):
    """torchvision counts the samples of 1.835e6 px in 32 bits, and writes outside its memory."""
    align = ops.RoIAlign((7, 7), spatial_scale=0.25, sampling_ratio=0, pool_mode=mode)
    good = features.new_tensor([[0, 1, 2, 9, 7]])
    rois = torch.cat((good, features.new_tensor([[0, 0, 0, side, side]])))
    out, grad = values_and_grad(lambda x: align(x, rois), features)
    assert out[1].isnan().all() and torch.equal(out[0], align(features, good)[0])
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("size", [(0, 8), (8, 0), (0, 0)])
def test_a_map_without_a_pixel_is_named(kind, size):
    """torchvision reads outside its memory there."""
    features, rois = torch.randn(2, 3, *size), torch.tensor([[0, 1, 1, 9.0, 7.0]])
    with pytest.raises(ValueError, match=f"input: a map of {size[0]}x{size[1]} px"):
        POOLS[kind](2)(features, rois)
    assert POOLS[kind](2)(features, rois[:0]).shape[:2] == (0, 3)


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("ratio", [0, 2])
def test_a_region_that_overflows_gives_nan(kind, ratio):
    """Its corners are finite in px of the image; in px of the map they are not."""
    features, pool = torch.randn(2, 3, 8, 8), POOLS[kind](ratio)
    pool.spatial_scale = 4.0
    out = pool(features, torch.tensor([[0, 1, 1, 3e38, 7], [0, 0, 0, 1, 1]]))
    assert out[0].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("index", [-1, 2, 1e9])
def test_an_image_index_out_of_range_is_named(kind, index):
    features = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    rois = torch.tensor([[index, 1, 1, 9, 7]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"rois: image index .*expected 0\.\.1"):
        POOLS[kind](2)(features, rois)


def test_pool_is_torchvisions_on_whole_pixels(features):
    rois = torch.tensor([[0, 1, 2, 7, 6], [1, -3, 0, 4, 20], [1, 5, 5, 5, 5]])
    rois = rois.to(features)
    assert_same(
        values_and_grad(lambda x: ops.RoIPool((3, 2), 1.0)(x, rois), features),
        values_and_grad(lambda x: torchvision.ops.roi_pool(x, rois, (3, 2), 1.0), features),
    )


def test_pool_rounds_bins_outwards(features):
    rois = REGIONS.to(features.device)
    out, grad = values_and_grad(lambda x: ops.RoIPool((3, 2), 0.5)(x, rois), features)
    expected = values_and_grad(lambda x: pool_reference(x, REGIONS, (3, 2), 0.5), features)
    assert_same((out, grad), expected)
    other = torchvision.ops.roi_pool(features, rois, (3, 2), 0.5)
    assert not torch.allclose(out, other)  # else this file's own bins would be needless


def test_pool_gradient(features):
    pool = ops.RoIPool((3, 2), 0.5)
    assert gradcheck(pool, (features, REGIONS.to(features.device)), eps=1e-7, nondet_tol=1e-12)


@pytest.mark.parametrize("box", [[9, 9, 2, 2], [9.7, 0.5, 8.5, 4], [90, 90, 99, 99]])
def test_pool_of_nothing_is_zero(features, box):
    """Regions that end before they begin, or lie outside, have neither value nor gradient."""
    rois = torch.tensor([[1, *box]]).to(features)
    out, grad = values_and_grad(lambda x: ops.RoIPool(2, 1.0)(x, rois), features)
    assert not out.any() and not grad.any()


@pytest.mark.parametrize(
    "operator", [ops.RoIAlign(2), ops.RoIAlign(2, pool_mode="max"), ops.RoIPool(2)]
)
def test_no_regions(features, operator):
    out, grad = values_and_grad(lambda x: operator(x, x.new_empty(0, 5)), features)
    assert out.shape == (0, 3, 2, 2)
    assert grad.shape == features.shape and not grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "operator",
    [ops.RoIAlign(2, 0.5), ops.RoIAlign(2, 0.5, pool_mode="max"), ops.RoIPool(2, 0.5)],
)
def test_half_precision_computes_in_float32(features, operator, dtype):
    rois = REGIONS.to(features.device, dtype)
    narrow = features.detach().to(dtype)
    actual = values_and_grad(lambda x: operator(x, rois), narrow.requires_grad_())
    wide = narrow.detach().float().requires_grad_()
    expected = values_and_grad(lambda x: operator(x, rois.float()), wide)
    assert actual[0].dtype == actual[1].dtype == dtype
    # values are rounded once; gradients also through their narrow weights and, for the maximum,
    # its narrow position (up to 2**-4 of a pixel between 8 and 16 in bfloat16)
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(actual[0].float(), expected[0], rtol=precision, atol=precision)
    torch.testing.assert_close(actual[1].float(), expected[1], rtol=0, atol=40 * precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", POOLS)
def test_regions_keep_their_own_precision(kind, dtype):
    """1001.3 px is 1000 px in bfloat16."""
    features = torch.arange(600, dtype=torch.float64).remainder(256).expand(1, 1, 9, 600)
    rois = torch.tensor([[0, 1001.3, 1.2, 1041.7, 9.4]])
    wide = features.clone().requires_grad_()
    expected = values_and_grad(lambda x: POOLS[kind](2)(x, rois.double()), wide)
    narrow = features.to(dtype).requires_grad_()  # whole numbers up to 256 are exact
    actual = values_and_grad(lambda x: POOLS[kind](2)(x, rois), narrow)
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=precision, atol=0)
    if kind != "max":  # mmcv holds its places in the features' dtype
        torch.testing.assert_close(actual[1].double(), expected[1], rtol=0, atol=4 * precision)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_region_that_would_fill_memory_gives_nan(mode):
    """One of 30,000 px would take 29 GB."""
    rois = torch.tensor([[0, 0, 0, 3e4, 3e4], [0, 1, 1, 6, 6]])
    out = ops.RoIAlign(2, 1.0, 0, mode)(torch.randn(1, 2, 8, 8), rois)
    assert out[0].isnan().all() and out[1].isfinite().all()
