"""full_size_losses against resizing and plain losses in float64 on the CPU, and its gradient.

Tolerance: 1e-5 of the largest value, `helpers.fast_paths.TOLERANCE`.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers.devices import replayable
from helpers.fast_paths import TOLERANCE, assert_close

from fpn_neck import CrossEntropyLoss, DiceLoss
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.losses import PixelAccuracy

IGNORE = 255
CASES = {  # classes, size of the logits, size of the labels
    "mmseg's": (19, (16, 24), (64, 96)),
    "odd": (7, (13, 9), (51, 34)),
    "one class": (1, (8, 8), (32, 32)),
    "many classes": (150, (8, 6), (32, 24)),
    "one cell": (5, (1, 1), (9, 5)),
    "one pixel": (5, (6, 4), (1, 1)),
    "smaller": (5, (9, 13), (4, 5)),
    "the same size": (5, (6, 4), (6, 4)),
}


def batch(device, classes=19, size=(16, 24), target=(64, 96), dtype=torch.float32):
    logits = (3 * torch.randn(2, classes, *size)).to(device, dtype).requires_grad_()
    labels = torch.randint(max(2, classes), (2, *target))
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    labels[0, 0, 0] = 1  # at least one pixel counts
    return logits, labels.to(device)


def plain(logits, labels, weights=None, align_corners=False):
    """Cross-entropy, Dice and accuracy in percent, from all logits at the labels' size."""
    x = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    if x.shape[1] == 1:
        x = torch.cat((torch.zeros_like(x), x), 1)
    classes, valid = x.shape[1], labels != IGNORE
    weights = torch.ones(classes) if weights is None else torch.tensor(weights)
    ce = F.cross_entropy(x, labels, weights.to(x), ignore_index=IGNORE)
    p = x.softmax(1).movedim(1, -1)[valid]
    truth = F.one_hot(labels[valid], classes).to(x)
    dice = (2 * (p * truth).sum(0) + 1e-3) / (p.sum(0) + truth.sum(0) + 1e-3)
    present = weights.to(x) * (truth.sum(0) > 0)
    accuracy = 100 * (x.argmax(1) == labels)[valid].to(x).mean()
    return ce, (present * (1 - dice)).sum() / present.sum(), accuracy


def check(logits, labels, weights=None, align_corners=False):
    losses = [CrossEntropyLoss(weights), DiceLoss(weights), PixelAccuracy()]
    losses = [loss.to(logits.device) for loss in losses]
    found = full_size_losses(logits, labels, losses, align_corners=align_corners)
    (found[0] + 0.3 * found[1]).backward()
    double = logits.detach().cpu().double().requires_grad_()
    expected = plain(double, labels.cpu(), weights, align_corners)
    (expected[0] + 0.3 * expected[1]).backward()
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert a.dtype == torch.float32 and a.device == logits.device
        assert_close(a.detach().cpu(), b.detach(), TOLERANCE[torch.float32])
    pixels = (labels != IGNORE).sum().item()
    assert abs(found[2].item() - expected[2].item()) <= 101 / pixels  # ties: one pixel
    assert_close(logits.grad.cpu(), double.grad, TOLERANCE[logits.dtype])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("classes", "size", "target"), CASES.values(), ids=CASES)
def test_sizes(device, classes, size, target, align_corners):
    check(*batch(device, classes, size, target), align_corners=align_corners)


def test_class_weights(device):
    check(*batch(device, 5), weights=[0.5, 2.0, 0.0, 1.0, 3.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_logits_give_float32_losses(device, dtype):
    check(*batch(device, dtype=dtype))


def test_channels_last_logits(device):
    logits, labels = batch(device)
    logits = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    check(logits, labels)
    assert logits.grad.is_contiguous(memory_format=torch.channels_last)


def test_all_ignored_is_zero_with_a_zero_gradient(device):
    logits, labels = batch(device)
    losses = [CrossEntropyLoss(), DiceLoss()]
    values = full_size_losses(logits, torch.full_like(labels, IGNORE), losses)
    sum(values).backward()
    assert [v.item() for v in values] == [0, 0]
    assert (logits.grad == 0).all()  # false for NaN


def test_the_same_under_autocast(device):
    logits, labels = batch(device)
    losses = [CrossEntropyLoss(), DiceLoss()]
    expected = full_size_losses(logits, labels, losses)
    with torch.autocast(device, torch.bfloat16):
        found = full_size_losses(logits, labels, losses)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_the_same_bits_again_on_request(device, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logits, labels = batch(device)
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            values = full_size_losses(logits, labels, [CrossEntropyLoss(), DiceLoss()])
            results.append([*values, torch.autograd.grad(sum(values), logits)[0]])
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_repeated_on_new_logits(device):
    logits, labels = batch(device)

    def step():
        values = full_size_losses(logits, labels, [CrossEntropyLoss(), DiceLoss()])
        return [*values, *torch.autograd.grad(sum(values), logits)]

    call = replayable(step, device)
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
    for a, b in zip(call(), step(), strict=True):
        assert_close(a.detach(), b.detach(), 1e-6)
