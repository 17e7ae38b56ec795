"""Taps against torch's resizing, and that they are made once."""

import pytest
import torch
import torch.nn.functional as F

from fpn_neck.strips.bilinear_taps import Taps
from fpn_neck.strips.row_map import Resize

SIZES = [(5, 20), (7, 29), (1, 9), (9, 4), (6, 6), (40, 333)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_the_matrix_is_torchs_resizing(size, target, align_corners):
    taps, x = Taps.linear(size, target, align_corners), torch.eye(size, dtype=torch.float64)
    expected = F.interpolate(x[None], size=target, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(taps.matrix(x), expected[0].t(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_all_outputs_that_use_an_input_are_among_its_users(size, target, align_corners):
    for taps in (
        Taps.linear(size, target, align_corners),
        Taps.linear(target, 3 * target, align_corners)
        .part(1, 2 * target)
        .after(Taps.linear(size, target, align_corners)),
    ):
        axis = taps.axis(torch.device("cpu"))
        assert (axis.indices.dtype, axis.weights.dtype) == (torch.int32, torch.float32)
        used = taps.matrix(torch.empty(0)) > 0  # (outputs, inputs)
        for i, (start, end) in enumerate(axis.users.tolist()):
            outputs = used[:, i].nonzero().flatten().tolist()
            assert set(outputs) <= set(range(start, end))
            assert end - start <= len(outputs) + axis.indices.shape[1]


def test_taps_are_made_once():
    first, again = (Taps.linear(30, 120, False) for _ in range(2))
    assert first is again and first is not Taps.linear(30, 120, True)
    assert first.part(3, 9) is again.part(3, 9)
    assert first.axis(torch.device("cpu")).weights is again.axis(torch.device("cpu")).weights


def test_taps_of_inference_mode_serve_in_training():
    with torch.inference_mode():
        Taps.linear(31, 117, False).tensors(torch.empty(0))
    x = torch.randn(117, 2, requires_grad=True)
    (Taps.linear(31, 117, False).tensors(x)[1] * x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("start", "end"), [(0, 29), (3, 5), (10, 29)])
@pytest.mark.parametrize("target", [(29, 150), (29, 11), (3, 9)], ids=str)
def test_the_transposed_is_the_gradient(target, start, end, align_corners):
    end = min(end, target[0])
    start = min(start, end - 1)
    resize = Resize((8, 40), target, align_corners)
    first, last = resize.span(start, end)
    x = torch.randn(2, 3, last - first, 40, dtype=torch.float64, requires_grad=True)
    whole = F.pad(x, (0, 0, first, 8 - last))
    expected = F.interpolate(whole, size=target, mode="bilinear", align_corners=align_corners)
    expected = expected[:, :, start:end]
    found = resize.rows(x.detach(), start, end)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    grad = torch.randn_like(found)
    torch.testing.assert_close(
        resize.transposed(grad, start, end),
        torch.autograd.grad(expected, x, grad)[0],
        atol=1e-12,
        rtol=0,
    )


def test_kernels_read_an_input_once_after_two_resizings():
    taps = Taps.linear(64, 150, False).after(Taps.linear(16, 64, False))
    axis = taps.axis(torch.device("cpu"))
    assert taps.indices.shape[1] == 4 and axis.indices.shape[1] < 4
    matrix = torch.zeros(150, 16).scatter_add_(1, axis.indices.long(), axis.weights)
    torch.testing.assert_close(matrix, taps.matrix(torch.zeros(())))
