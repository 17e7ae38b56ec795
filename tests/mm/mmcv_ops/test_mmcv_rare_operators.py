"""PSAMask, masked convolution, CARAFE, deformable RoI pooling and attention, through mmcv.

The right values are loops over mmcv's own definitions (mmcv 2.1, csrc/pytorch/cpu and
csrc/common/cuda), and gradcheck.
"""

import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from fpn_neck.mm.mmcv_ops import install

pytest.importorskip("mmcv")
install()
ops = importlib.import_module("mmcv.ops")
attention = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
carafe, carafe_naive = ops.carafe, ops.carafe_naive
deform_roi_pool = ops.deform_roi_pool

# ------------------------------------------------------------------------------------- PSAMask


def naive_psa_mask(x, kind, mask):
    n, _, h, w = x.shape
    output = x.new_zeros(n, h * w, h, w)
    for y, z, i, j in itertools.product(range(h), range(w), range(mask[0]), range(mask[1])):
        ty, tx = y + i - (mask[0] - 1) // 2, z + j - (mask[1] - 1) // 2
        if 0 <= ty < h and 0 <= tx < w:
            value = x[:, i * mask[1] + j, y, z]
            if kind == "collect":
                output[:, ty * w + tx, y, z] = value
            else:
                output[:, y * w + z, ty, tx] = value
    return output


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("size, mask", [((4, 5), (3, 5)), ((4, 5), (7, 9)), ((1, 1), (1, 1))])
def test_psa_mask(kind, size, mask):
    x = torch.randn(2, mask[0] * mask[1], *size, dtype=torch.float64, requires_grad=True)
    operator = ops.PSAMask(kind, mask)
    found = operator(x)
    torch.testing.assert_close(found, naive_psa_mask(x, kind, mask), rtol=0, atol=0)
    # The operator is linear, and its backward has to be its transpose.
    weight = torch.randn_like(found)
    found.backward(weight)
    other = torch.randn_like(x)
    left = (operator(other.detach()) * weight).sum()
    torch.testing.assert_close(left, (other * x.grad).sum())


@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_psa_mask_of_no_images(kind):
    x = torch.randn(0, 9, 4, 5, requires_grad=True)
    found = ops.PSAMask(kind, (3, 3))(x)
    found.sum().backward()
    assert found.shape == (0, 20, 4, 5) and x.grad.shape == x.shape


# -------------------------------------------------------------------------- masked convolution


@pytest.mark.parametrize("kernel, padding", [(3, 1), (1, 0), ((5, 3), (2, 1))])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_masked_convolution_is_the_convolution_at_the_chosen_cells(kernel, padding, share):
    conv = ops.MaskedConv2d(4, 6, kernel, padding=padding)
    x, mask = torch.randn(1, 4, 7, 9), (torch.rand(1, 7, 9) < share).float()
    with torch.no_grad():
        expected = F.conv2d(x, conv.weight, conv.bias, padding=padding) * mask[:, None]
        torch.testing.assert_close(conv(x, mask), expected, rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------- CARAFE


def naive_carafe(features, masks, kernel, groups, scale):
    n, c, h, w = features.shape
    padded = F.pad(features, [kernel // 2] * 4)
    output = features.new_zeros(n, c, h * scale, w * scale)
    for channel, y, x in itertools.product(range(c), range(h * scale), range(w * scale)):
        group = channel // (c // groups)
        weights = masks[:, group * kernel**2 : (group + 1) * kernel**2, y, x]
        top, left = y // scale, x // scale
        window = padded[:, channel, top : top + kernel, left : left + kernel]
        output[:, channel, y, x] = (weights * window.flatten(1)).sum(1)
    return output


@pytest.mark.parametrize("operator", [ops.CARAFE, ops.CARAFENaive])
@pytest.mark.parametrize("kernel, groups, scale", [(3, 1, 2), (5, 2, 2), (1, 4, 3), (3, 2, 1)])
def test_carafe(operator, kernel, groups, scale):
    features = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    masks = torch.rand(2, kernel**2 * groups, 3 * scale, 5 * scale, dtype=torch.float64)
    found = operator(kernel, groups, scale)(features, masks)
    expected = naive_carafe(features, masks, kernel, groups, scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_carafes_gradient():
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 18, 4, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *x: carafe(*x, 3, 2, 2), (features, masks))


def test_carafe_in_half_precision_is_that_of_float32():
    features, masks = torch.randn(1, 4, 4, 4).bfloat16(), torch.rand(1, 9, 8, 8).bfloat16()
    found = carafe_naive(features, masks, 3, 1, 2)
    expected = carafe_naive(features.float(), masks.float(), 3, 1, 2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16())


# ----------------------------------------------------------------------- deformable RoI pooling


def read(image, y, x):
    """mmcv's bilinear reading of one image (C, H, W)."""
    h, w = image.shape[1:]
    if not (-1 <= y <= h and -1 <= x <= w):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    down, across = y - top, x - left
    upper = image[:, top, left] * (1 - across) + image[:, top, right] * across
    lower = image[:, bottom, left] * (1 - across) + image[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def naive_roi_pool(images, rois, offset, size, scale, ratio, gamma):
    output = images.new_zeros(len(rois), images.shape[1], *size)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top = x1 * scale - 0.5, y1 * scale - 0.5
        width, height = x2 * scale - 0.5 - left, y2 * scale - 0.5 - top
        rows = ratio or max(0, int(torch.tensor(height / size[0]).ceil()))
        columns = ratio or max(0, int(torch.tensor(width / size[1]).ceil()))
        for i, j in itertools.product(*map(range, size)):
            x, y = left, top
            if offset is not None:
                x += gamma * width * float(offset[k, 0, i, j])
                y += gamma * height * float(offset[k, 1, i, j])
            for a, b in itertools.product(range(rows), range(columns)):
                place = (
                    y + height / size[0] * (i + (a + 0.5) / rows),
                    x + width / size[1] * (j + (b + 0.5) / columns),
                )
                output[k, :, i, j] += read(images[int(image)], *place) / (rows * columns)
    return output


ROIS = torch.tensor(
    [[0, 2, 3, 20, 15], [1, 0, 0, 30, 30], [0, 8, 8, 8, 20], [1, -9, -9, 4, 5], [0, 25, 9, 60, 9]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("moved", [False, True])
def test_deformable_roi_pooling(ratio, moved):
    images = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    offset = torch.randn(len(ROIS), 2, 3, 4, dtype=torch.float64) if moved else None
    found = deform_roi_pool(images, ROIS, offset, (3, 4), 0.25, ratio, 0.5)
    expected = naive_roi_pool(images, ROIS, offset, (3, 4), 0.25, ratio, 0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_gradient_of_deformable_roi_pooling():
    images = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    offset = 0.3 * torch.rand(2, 2, 2, 2, dtype=torch.float64)
    rois = ROIS[:2]
    pool = ops.DeformRoIPool((2, 2), 0.125, 2, 0.1)
    assert gradcheck(lambda x, o: pool(x, rois, o), (images, offset.requires_grad_()))
    assert gradcheck(lambda x: pool(x, rois), (images,))


def test_deformable_roi_pooling_of_no_regions():
    images = torch.randn(1, 2, 5, 6, requires_grad=True)
    found = deform_roi_pool(images, torch.empty(0, 5), torch.empty(0, 2, 2, 2), (2, 2))
    found.sum().backward()
    assert found.shape == (0, 2, 2, 2) and not images.grad.any()


@pytest.mark.parametrize("side", [0.0, -3.0])
def test_regions_without_a_sample_have_no_gradient(side):
    images = torch.randn(1, 2, 5, 6, requires_grad=True)
    offset = torch.ones(1, 2, 2, 2, requires_grad=True)
    rois = torch.tensor([[0, 2.0, 2.0, 2.0 + side, 2.0 + side]])
    found = deform_roi_pool(images, rois, offset, (2, 2))
    found.sum().backward()
    assert not found.any() and not images.grad.any() and not offset.grad.any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_offset_that_is_not_finite_gives_nan_in_its_bin(value):
    images, rois, offset = torch.randn(2, 3, 9, 8).double(), ROIS[:2], torch.zeros(2, 2, 2, 2)
    good = deform_roi_pool(images, rois, offset.double(), (2, 2), 0.25)
    offset[1, 0, 1, 0] = value
    found = deform_roi_pool(images, rois, offset.double(), (2, 2), 0.25)
    assert found[1, :, 1, 0].isnan().all() and found.isnan().sum() == 3
    assert torch.equal(found.where(found.isfinite(), good), good)


@pytest.mark.parametrize("side", [3e4, 1e7, 1e30])
def test_a_region_of_too_many_samples_gives_nan_and_no_full_memory(side):
    images = torch.randn(1, 2, 5, 6, requires_grad=True)
    rois = torch.tensor([[0, 0.0, 0.0, side, side], [0, 1.0, 1.0, 4.0, 4.0]])
    found = deform_roi_pool(images, rois, None, (2, 2))
    assert found[0].isnan().all()
    assert torch.equal(found[1], deform_roi_pool(images, rois[1:], None, (2, 2))[0])
    found[1].sum().backward()
    assert images.grad.isfinite().all()


# --------------------------------------------------------------------------- deformable attention


def test_deformable_attention_as_mmcv_calls_it_on_gpus():
    shapes = torch.tensor([[3, 4], [2, 2]])
    starts = torch.tensor([0, 12])
    value = torch.randn(2, 16, 2, 3, dtype=torch.float64, requires_grad=True)
    places = torch.rand(2, 5, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 5, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    def attend(value, places, weights):
        return attention.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, places, weights, 64
        )

    expected = attention.multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    torch.testing.assert_close(attend(value, places, weights), expected)
    assert gradcheck(attend, (value, places, weights))
