"""The focal losses of mmcv.ops on the substitute for mmcv._ext."""

import importlib

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.autograd import gradcheck

from fpn_neck.mm.mmcv_ops import install

pytest.importorskip("mmcv")
install()
ops = importlib.import_module("mmcv.ops")

GAMMAS = [0.0, 0.5, 2.0]
REDUCE = {"none": lambda x: x, "sum": torch.sum, "mean": lambda x: x.sum() / len(x)}


@pytest.fixture
def case(random, device):
    """Logits of 7 rows and 3 classes, classes with each number twice and one row of none."""
    logits = (random(7, 3) * 8 - 4).to(device).requires_grad_()
    return logits, torch.tensor([0, 1, 2, 2, 1, 0, 3], device=device)


@pytest.fixture
def class_weight(device):
    return torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64, device=device)


def sigmoid_formula(logits, target, gamma, alpha):
    """Lin et al., eq. 5, one binary problem for each class."""
    p = 1 / (1 + (-logits).exp())
    truth = F.one_hot(target, 4)[:, :3].bool()
    p_t, a_t = p.where(truth, 1 - p), torch.full_like(p, 1 - alpha).masked_fill(truth, alpha)
    return -a_t * (1 - p_t) ** gamma * p_t.log()


def softmax_formula(logits, target, gamma, alpha):
    p = (logits.exp() / logits.exp().sum(1, keepdim=True))[range(len(target)), target]
    return -alpha * (1 - p) ** gamma * p.log()


def assert_same(actual, expected, logits):
    """Equal values and gradients."""
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)
    grads = (torch.autograd.grad(t.sum(), logits)[0] for t in (actual, expected))
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCE)
def test_sigmoid_formula(case, gamma, reduction):
    logits, target = case
    actual = ops.sigmoid_focal_loss(logits, target, gamma, 0.3, None, reduction)
    assert_same(actual, REDUCE[reduction](sigmoid_formula(*case, gamma, 0.3)), logits)


def test_sigmoid_is_torchvisions(case):
    logits, target = case
    truth = F.one_hot(target, 4)[:, :3].double()
    expected = torchvision.ops.sigmoid_focal_loss(logits, truth, 0.3, 2.0, "sum")
    assert_same(ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, None, "sum"), expected, logits)


def test_sigmoid_class_weight_spares_the_background(case, class_weight):
    logits, target = case
    factor = torch.cat([class_weight, class_weight.new_ones(1)])[target][:, None]
    expected = sigmoid_formula(*case, 2.0, 0.3) * factor
    assert_same(
        ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, class_weight, "none"), expected, logits
    )


@pytest.mark.parametrize("background", [-1, 3, 80])
def test_sigmoid_background_is_any_other_number(case, background):
    logits, target = case
    target = target.new_full((7,), background)
    expected = sigmoid_formula(logits, target.new_full((7,), 3), 2.0, 0.3)
    assert_same(ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, None, "none"), expected, logits)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])  # mmcv's own backward fails with "none"
def test_softmax_formula(case, class_weight, gamma, reduction):
    logits, target = case[0], case[1].clamp(max=2)
    expected = softmax_formula(logits, target, gamma, 0.3)
    actual = ops.softmax_focal_loss(logits, target, gamma, 0.3, class_weight, reduction)
    assert_same(actual, REDUCE[reduction](expected * class_weight[target]), logits)


def test_softmax_without_class_weight(case):
    logits, target = case[0], case[1].clamp(max=2)
    expected = softmax_formula(logits, target, 2.0, 0.3).sum()
    assert_same(ops.softmax_focal_loss(logits, target, 2.0, 0.3, None, "sum"), expected, logits)


def test_softmax_without_focus_is_cross_entropy(case):
    logits, target = case[0], case[1].clamp(max=2)
    expected = F.cross_entropy(logits, target)
    assert_same(ops.softmax_focal_loss(logits, target, 0.0, 1.0, None, "mean"), expected, logits)


def test_softmax_ignores_negative_classes(case, class_weight):
    logits, target = case[0], case[1].clamp(max=2)
    masked = target.clone()
    masked[2:5] = -1
    keep = masked >= 0
    expected = (softmax_formula(logits, target, 2.0, 0.3) * class_weight[target])[keep].sum()
    actual = ops.softmax_focal_loss(logits, masked, 2.0, 0.3, class_weight, "sum")
    assert_same(actual, expected, logits)
    loss = ops.softmax_focal_loss(logits, masked, 2.0, 0.3, class_weight, "none")
    assert not loss[~keep].any()


def test_softmax_names_a_class_that_there_is_not(case):
    with pytest.raises(ValueError, match=r"target: class 3: expected 0\.\.2"):
        ops.softmax_focal_loss(case[0].cpu(), case[1].cpu(), 2.0, 0.3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients(case, class_weight, gamma):
    logits, target = case
    sigmoid = ops.SigmoidFocalLoss(gamma, 0.3, class_weight, "none")
    assert gradcheck(lambda x: sigmoid(x, target), (logits,))
    softmax = ops.SoftmaxFocalLoss(gamma, 0.3, class_weight, "mean")
    assert gradcheck(lambda x: softmax(x, target.clamp(max=2)), (logits,))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("loss", [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
def test_certain_predictions_stay_finite(device, loss, gamma):
    logits = torch.tensor([[300.0, -300], [-300, 300]], device=device, requires_grad=True)
    target = torch.tensor([0, 0], device=device)
    value = loss(logits, target, gamma, 0.25, None, "sum")
    (grad,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and value > 10
    assert grad.isfinite().all() and not grad[0].any() and grad[1, 0] < 0


@pytest.mark.parametrize("loss", [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
def test_no_rows(device, loss):
    logits = torch.empty(0, 3, device=device, requires_grad=True)
    target = torch.empty(0, dtype=torch.long, device=device)
    value = loss(logits, target, 2.0, 0.25, torch.ones(3, device=device), "sum")
    assert value == 0
    assert torch.autograd.grad(value, logits)[0].shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
def test_half_precision(case, dtype, loss):
    narrow, target = case[0].detach().to(dtype).requires_grad_(), case[1].clamp(max=2)
    wide = narrow.detach().float().requires_grad_()
    actual, expected = (loss(x, target, 2.0, 0.25, None, "sum") for x in (narrow, wide))
    assert actual.dtype == dtype
    # mmcv sums, and takes the softmax, in the narrow format
    precision = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.float(), expected, rtol=precision, atol=precision)
    grads = [torch.autograd.grad(t, x)[0].float() for t, x in ((actual, narrow), (expected, wide))]
    torch.testing.assert_close(*grads, rtol=precision, atol=precision)
