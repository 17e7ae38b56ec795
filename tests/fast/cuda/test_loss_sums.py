"""The loss kernels against torch's operators in float64: sums, lse and gradient."""

import pytest
import torch
from helpers.kernels import axis, class_sums, need_kernels, resizing

from fpn_neck.fast.cuda import losses
from fpn_neck.fast.cuda.losses import loss_grad, loss_sums

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
IGNORE = 255
PIXELS, LOG_P, P, CORRECT, ALL_P, ALL_LOG_P = range(6)  # rows of the sums
TOLERANCE = 5e-6  # relative to the largest sum or gradient; 3e-7 measured in the interpreter
SIZES = {  # cells, pixels, align_corners
    "odd": ((3, 2), (11, 7), False),
    "corners": ((2, 3), (5, 8), True),
    "one pixel": ((3, 2), (1, 1), False),
    "one cell": ((1, 1), (3, 2), False),
    "smaller": ((4, 5), (3, 2), False),
    "same rows": ((2, 3), (2, 7), False),
}


def close(ours, expected, tolerance=TOLERANCE):
    scale = expected.abs().max().item()
    torch.testing.assert_close(ours.double().cpu(), expected, atol=tolerance * scale, rtol=0)


def labels_of(classes, pixels, images=2):
    target = torch.randint(0, classes, (images, *pixels))
    target[torch.rand(target.shape) < 0.2] = IGNORE
    return target


def check(x, target, down, across, device, dense=True, tolerance=TOLERANCE):
    """Sums, lse and gradient; derivatives by the sums are random."""
    axes = axis(down, device=device), axis(across, device=device)
    logits = x.to(device)
    sums, lse = loss_sums(logits, target.to(device), *axes, ignore_index=IGNORE, dense=dense)
    reference = x.double().cpu().requires_grad_()
    values = torch.einsum("yh,nkhw,xw->nkyx", down, reference, across)
    expected = class_sums(values, target.cpu(), IGNORE)
    valid = target.cpu() != IGNORE
    assert sums.dtype == torch.float64 and lse.dtype == torch.float32
    assert torch.equal(sums[PIXELS].cpu(), expected[PIXELS])
    for row in range(6 if dense else 4):
        close(sums[row], expected[row].detach())
    assert (lse.cpu()[~valid] == torch.inf).all()
    if valid.any():
        close(lse.cpu()[valid], values.logsumexp(1)[valid].detach())

    derivatives = torch.randn(6, x.shape[1], dtype=torch.float64)
    if not dense:
        derivatives[[P, ALL_P, ALL_LOG_P]] = 0
    (expected * derivatives).sum().backward()
    derivatives = derivatives.to(device)
    grad = loss_grad(logits, target.to(device), *axes, lse, derivatives, dense=dense)
    assert grad.dtype == x.dtype and grad.stride() == torch.empty_like(x).stride()
    close(grad, reference.grad, tolerance)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name, device):
    cells, pixels, align_corners = SIZES[name]
    x = torch.randn(2, 5, *cells)
    down, across = (
        resizing(size, target, align_corners) for size, target in zip(cells, pixels, strict=True)
    )
    check(x, labels_of(5, pixels), down, across, device)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("classes", [2, 67])  # 67 is more than any block, not a power of two
def test_classes(classes, dense, layout, device):
    x = (3 * torch.randn(1, classes, 2, 2)).contiguous(memory_format=layout)
    target = labels_of(classes, (3, 4), images=1)
    check(x, target, resizing(2, 3), resizing(2, 4), device, dense=dense)


def test_results_are_the_same_bits_again(device):
    x = torch.randn(2, 3, 2, 3).to(device)
    target = labels_of(3, (5, 7)).to(device)
    axes = axis(resizing(2, 5), device=device), axis(resizing(3, 7), device=device)
    derivatives = torch.randn(6, 3, device=device)
    results = []
    for _ in range(2):
        sums, lse = loss_sums(x, target, *axes, ignore_index=IGNORE, dense=True)
        grad = loss_grad(x, target, *axes, lse, derivatives, dense=True)
        results.append((sums, lse, grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types(dtype, layout, device):
    """All arithmetic is float32; only the gradient is rounded (the interpreter cuts bfloat16)."""
    x = torch.randn(2, 5, 2, 3).to(dtype).contiguous(memory_format=layout)
    rounding = torch.finfo(dtype).eps
    check(x, labels_of(5, (3, 5)), resizing(2, 3), resizing(3, 5), device, tolerance=rounding)


def test_all_pixels_ignored(device):
    x = torch.randn(1, 5, 3, 2)
    target = torch.full((1, 6, 5), IGNORE)
    axes = axis(resizing(3, 6), device=device), axis(resizing(2, 5), device=device)
    x, target = x.to(device), target.to(device)
    sums, lse = loss_sums(x, target, *axes, ignore_index=IGNORE, dense=True)
    assert not sums.any() and (lse == torch.inf).all()
    derivatives = torch.ones(6, 5, device=device)
    assert not loss_grad(x, target, *axes, lse, derivatives, dense=True).any()


def test_labels_out_of_range_count_as_ignored(device):
    x = torch.randn(1, 3, 2, 2).to(device)
    both = axis(resizing(2, 4), device=device)
    target = torch.randint(0, 3, (1, 4, 4), device=device)
    wrong, ignored = target.clone(), target.clone()
    wrong[0, 0] = torch.tensor([3, -1, 1 << 40, -(1 << 40)])
    ignored[0, 0] = IGNORE
    results = [
        loss_sums(x, labels, both, both, ignore_index=IGNORE, dense=True)
        for labels in (wrong, ignored)
    ]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    derivatives = torch.randn(6, 3, device=device)
    a, b = (
        loss_grad(x, labels, both, both, lse, derivatives, dense=True)
        for labels, (_, lse) in zip((wrong, ignored), results, strict=True)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_logits_make_the_sums_nan(value, device):
    """Infinity in ``lse`` means 'ignored'; a broken logit must not be taken for it."""
    x = torch.randn(1, 3, 2, 2)
    x[0, 1, 0, 0] = value
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    x, target = x.to(device), target.to(device)
    both = axis(resizing(2, 4), device=device)
    sums, lse = loss_sums(x, target, both, both, ignore_index=IGNORE, dense=False)
    assert sums[LOG_P].isnan().any() and sums[PIXELS].sum() == 16
    derivatives = torch.ones(6, 3, device=device)
    grad = loss_grad(x, target, both, both, lse, derivatives, dense=False)
    assert grad[0, :, 0, 0].isnan().all()


def test_a_masked_class_has_no_probability(device):
    """Logits of -infinity at some cells: where they have weight, p is 0; the rest is finite."""
    x = torch.randn(1, 4, 3, 3)
    x[0, 2, :2, 1:] = -torch.inf
    matrix = resizing(3, 5, True)
    both = axis(matrix, taps=2, device=device)
    target = torch.randint(0, 2, (1, 5, 5))
    sums, lse = loss_sums(x.to(device), target.to(device), both, both, ignore_index=0, dense=True)
    reference = x.double().clamp(min=-1e30).requires_grad_()
    values = torch.einsum("yh,nkhw,xw->nkyx", matrix, reference, matrix)
    expected = class_sums(values, target, 0)
    for row in (PIXELS, LOG_P, ALL_P):
        close(sums[row], expected[row].detach())
    derivatives = torch.randn(6, 4, dtype=torch.float64)
    derivatives[[ALL_LOG_P, CORRECT]] = 0
    (expected * derivatives)[:5].sum().backward()
    grad = loss_grad(
        x.to(device), target.to(device), both, both, lse, derivatives.to(device), dense=True
    )
    close(grad, reference.grad)


def test_strides_are_free(device):
    x = torch.randn(2, 8, 6, 9, device=device)[:, ::2, 1:5:2, 2:9:3]
    target = labels_of(4, (6, 5)).to(device).transpose(1, 2)
    assert not target.is_contiguous()
    check(x, target, resizing(2, 5), resizing(3, 6), device)


@pytest.mark.parametrize("dense", [False, True])
def test_offsets_of_64_bits(dense, layout, device, monkeypatch):
    monkeypatch.setattr(losses, "needs_int64", lambda *_: True)
    x = torch.randn(1, 3, 2, 2).contiguous(memory_format=layout)
    target = labels_of(3, (3, 4), images=1)
    check(x, target, resizing(2, 3), resizing(2, 4), device, dense=dense)


def test_several_chunks_of_pixels(monkeypatch, device):
    """Sums by program, then over the programs; no tile is counted twice or left out."""
    monkeypatch.setattr(losses, "_PIXELS_PER_SUM", 256)
    x = torch.randn(2, 3, 2, 36)
    target = labels_of(3, (6, 70))
    check(x, target, resizing(2, 6), resizing(36, 70), device, dense=False)


def test_four_taps_are_refused(device):
    x, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 6, 6, dtype=torch.int64)
    both = axis(resizing(8, 6) @ resizing(4, 8), taps=4, device=device)
    with pytest.raises(ValueError, match="4 taps"):
        loss_sums(x.to(device), target.to(device), both, both, ignore_index=0, dense=False)
