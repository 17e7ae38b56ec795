"""The label kernel against argmax of logits resized in float64."""

import pytest
import torch
from helpers.kernels import axis, need_kernels, resize, resizing

from fpn_neck.fast.cuda.axis import Axis, sum_equal_taps
from fpn_neck.fast.cuda.labels import cells_to_labels

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
SIZES = {  # cells, pixels, align_corners
    "odd": ((5, 3), (19, 13), False),
    "corners": ((4, 5), (11, 18), True),
    "one pixel": ((3, 2), (1, 1), False),
    "one cell": ((1, 1), (3, 2), False),
    "smaller": ((7, 9), (3, 4), False),
    "same rows": ((3, 4), (3, 9), False),
}


def assert_labels(labels, values, rounding=0.0):
    """Each label has a logit as large as the largest, up to ``rounding`` of ties."""
    assert labels.dtype == torch.int64 and labels.is_contiguous()
    assert labels.shape == values[:, 0].shape
    ours = values.gather(1, labels.cpu().unsqueeze(1))[:, 0]
    assert (ours >= values.amax(1) - rounding).all()


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name, layout, device):
    cells, pixels, align_corners = SIZES[name]
    x = torch.randn(2, 5, *cells).contiguous(memory_format=layout)
    down, across = (
        resizing(size, target, align_corners) for size, target in zip(cells, pixels, strict=True)
    )
    labels = cells_to_labels(x.to(device), axis(down, device=device), axis(across, device=device))
    assert_labels(labels, resize(x, down, across), rounding=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 37])  # 37 is more than a block, and not a power of two
def test_dtypes_and_classes(classes, dtype, layout, device):
    x = torch.randn(1, classes, 3, 4).to(dtype).contiguous(memory_format=layout)
    down, across = resizing(3, 10), resizing(4, 7)
    labels = cells_to_labels(x.to(device), axis(down, device=device), axis(across, device=device))
    assert_labels(labels, resize(x, down, across), rounding=1e-5)


def test_one_class_is_compared_with_0(device):
    x = torch.randn(2, 1, 3, 4)
    down, across = resizing(3, 7), resizing(4, 9)
    labels = cells_to_labels(x.to(device), axis(down, device=device), axis(across, device=device))
    values = resize(x, down, across)[:, 0]
    certain = values.abs() > 1e-5
    assert torch.equal(labels.cpu()[certain], (values > 0).long()[certain])
    assert 0 < labels.sum() < labels.numel()


@pytest.mark.parametrize("merged", [False, True])
def test_two_resizings_and_a_crop(merged, layout, device):
    x = torch.randn(1, 6, 4, 5).contiguous(memory_format=layout)
    down = resizing(13, 21) @ resizing(4, 16)[:13]
    across = resizing(17, 11) @ resizing(5, 20)[:17]
    axes = []
    for matrix in (down, across):
        made = axis(matrix, taps=4, device=device)
        if merged:
            indices, weights = sum_equal_taps(made.indices, made.weights)
            assert indices.shape[1] == 3 and indices.dtype == torch.int32
            made = made._replace(indices=indices, weights=weights)
        axes.append(made)
    assert_labels(cells_to_labels(x.to(device), *axes), resize(x, down, across), rounding=1e-5)


def test_ties_take_the_first_class(layout, device):
    x = torch.zeros(1, 40, 2, 2).contiguous(memory_format=layout)
    x[:, [35, 7, 39]] = 1.0
    both = axis(resizing(2, 4), device=device)
    assert (cells_to_labels(x.to(device), both, both) == 7).all()


def test_infinite_logits(layout, device):
    """Infinity where a pixel has no weight does not count; where it has one, it decides."""
    x = torch.randn(1, 3, 3, 3)
    x[0, 1] = -torch.inf  # a masked class
    x[0, 2, 0, 0] = torch.inf
    x = x.contiguous(memory_format=layout)
    both = axis(resizing(3, 5, True), taps=2, device=device)  # pixels 0, 2 and 4 are cells
    labels = cells_to_labels(x.to(device), both, both)[0].cpu()
    finite = resize(x.clamp(-1e30, 1e30), resizing(3, 5, True), resizing(3, 5, True))
    assert torch.equal(labels, finite.argmax(1)[0])
    assert (labels[:2, :2] == 2).all()


def test_strides_are_free(device):
    x = torch.randn(2, 4, 9, 12, device=device)[:, ::2, 1:8:2, 2:11:3]
    down, across = resizing(4, 9), resizing(3, 8)
    axes = axis(down, device=device), axis(across, device=device)
    assert_labels(cells_to_labels(x, *axes), resize(x, down, across), rounding=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_offsets_of_64_bits(wide, layout, device, monkeypatch):
    monkeypatch.setattr("fpn_neck.fast.cuda.labels.needs_int64", lambda *_: wide)
    x = torch.randn(1, 3, 3, 4).contiguous(memory_format=layout)
    down, across = resizing(3, 5), resizing(4, 6)
    labels = cells_to_labels(x.to(device), axis(down, device=device), axis(across, device=device))
    assert_labels(labels, resize(x, down, across), rounding=1e-5)


def test_a_map_of_more_than_2_31_numbers(device):
    """Only its corners are written and read; the rest of its 6 GB is never touched."""
    try:
        x = torch.empty(1, 3, 1 << 15, 1 << 15, dtype=torch.bfloat16, device=device)
    except RuntimeError as error:
        pytest.skip(f"no room: {error}")
    last = x.shape[2] - 1
    corners = torch.tensor([[0, 2], [1, 2]], device=device)
    x[:, :, ::last, ::last] = torch.nn.functional.one_hot(corners, 3).movedim(-1, 0).to(x)
    one = torch.ones(2, 1, device=device)
    both = Axis(torch.tensor([[0], [last]], dtype=torch.int32, device=device), one, one.int())
    assert torch.equal(cells_to_labels(x, both, both)[0], corners)
