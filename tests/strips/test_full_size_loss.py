"""Row by row against the whole: values to 1e-6, gradients to 1e-7 (they are below 0.1)."""

import math

import pytest
import torch
import torch.nn.functional as F

import fpn_neck.strips.row_map
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.losses import CrossEntropyLoss, DiceLoss, PixelAccuracy
from fpn_neck.strips.pixel_loss import PixelLoss

K, IGNORE = 5, 255
SIZES = [  # logits, labels
    ((8, 10), (32, 40)),
    ((7, 5), (29, 18)),
    ((1, 1), (9, 5)),
    ((6, 4), (6, 4)),
    ((9, 13), (4, 5)),
    ((3, 50), (1, 200)),
]
WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.0]


def batch(size=(8, 10), target=(32, 40), n=2):
    logits = (3 * torch.randn(n, K, *size)).requires_grad_()
    labels = torch.randint(K, (n, *target))
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    return logits, labels


def whole(logits, labels, losses, align_corners=False):
    resized = F.interpolate(
        logits.float(), labels.shape[1:], mode="bilinear", align_corners=align_corners
    )
    return [loss(resized, labels, ignore_index=IGNORE) for loss in losses]


def check(logits, labels, losses, align_corners=False):
    found = full_size_losses(logits, labels, losses, align_corners=align_corners)
    expected = whole(logits, labels, losses, align_corners)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and a.shape == ()
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    weights = [1.0, 0.3, 7.0][: len(losses)]  # each loss's own gradient
    grads = [
        torch.autograd.grad(sum(w * x for w, x in zip(weights, values, strict=True)), logits)[0]
        for values in (found, expected)
    ]
    assert grads[1].abs().max() > 1e-4
    torch.testing.assert_close(*grads, atol=1e-7, rtol=1e-5)


@pytest.fixture(params=[1, 1000, 4 << 20])
def strip_bytes(request, monkeypatch):
    monkeypatch.setattr(fpn_neck.strips.row_map, "_STRIP_BYTES", request.param)


@pytest.mark.usefixtures("strip_bytes")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_values_and_gradients_are_those_of_the_whole(size, target, align_corners):
    check(*batch(size, target), [CrossEntropyLoss(), DiceLoss()], align_corners)


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(WEIGHTS),
        CrossEntropyLoss(avg_non_ignore=False),
        CrossEntropyLoss(loss_weight=0.3),
        CrossEntropyLoss(label_smoothing=0.3),
        DiceLoss(WEIGHTS),
        DiceLoss(absent_classes=True, eps=1.0),
    ],
)
@pytest.mark.usefixtures("strip_bytes")
def test_every_option(loss):
    check(*batch(), [loss])


@pytest.mark.parametrize("options", [{}, {"weight": torch.tensor(WEIGHTS)}])
def test_cross_entropy_is_torchs(options):
    logits, labels = batch((6, 7), (6, 7))
    ours = CrossEntropyLoss(options["weight"].tolist() if options else None)(logits, labels)
    theirs = F.cross_entropy(logits, labels, ignore_index=IGNORE, **options)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "class weights"])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_is_torchs(weights, smoothing):
    logits, labels = batch((6, 7), (6, 7))
    ours = CrossEntropyLoss(weights, label_smoothing=smoothing)
    options = {"label_smoothing": smoothing, "ignore_index": IGNORE}
    weight = None if weights is None else torch.tensor(weights)
    theirs = F.cross_entropy(logits, labels, weight, **options)
    for found in (ours(logits, labels), *full_size_losses(logits, labels, [ours])):
        torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"label_smoothing=1\.5"):
        CrossEntropyLoss(label_smoothing=1.5)


def test_cross_entropy_over_all_pixels_by_hand():
    logits, labels = batch((6, 7), (6, 7))
    loss = CrossEntropyLoss(avg_non_ignore=False)(logits, labels)
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)


def test_accuracy_by_hand():
    logits, labels = batch()
    (found,) = full_size_losses(logits, labels, [PixelAccuracy()])
    resized = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    right = (resized.argmax(1) == labels)[labels != IGNORE]
    assert found.item() == pytest.approx(100 * right.double().mean().item(), abs=0.1)
    assert 0 < found < 100


def test_of_equal_logits_the_first_is_the_largest():
    labels = torch.randint(3, (2, 9, 8))
    (found,) = full_size_losses(torch.zeros(2, 3, 4, 5), labels, [PixelAccuracy()])
    assert found.item() == pytest.approx(100 * (labels == 0).double().mean().item(), abs=1e-4)


def test_all_ignored_is_zero_with_a_zero_gradient():
    logits, labels = batch()
    losses = [CrossEntropyLoss(), DiceLoss(), PixelAccuracy()]
    *found, accuracy = full_size_losses(logits, torch.full_like(labels, IGNORE), losses)
    sum(found).backward()
    assert [f.item() for f in (*found, accuracy)] == pytest.approx([0, 0, 0], abs=1e-6)
    assert (logits.grad == 0).all()  # false for NaN


def test_no_images_are_zero_too():
    logits = torch.zeros(0, 3, 4, 5, requires_grad=True)
    labels = torch.zeros(0, 9, 8, dtype=torch.int64)
    found = full_size_losses(logits, labels, [CrossEntropyLoss(), DiceLoss(), HardPixels()])
    assert [f.item() for f in found] == [0, 0, 0]
    sum(found).backward()
    assert logits.grad.shape == (0, 3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    logits, labels = batch()
    low = logits.detach().to(dtype).requires_grad_()
    losses = [CrossEntropyLoss(), DiceLoss()]
    found = full_size_losses(low, labels, losses)
    sum(found).backward()
    assert low.grad.dtype == dtype and low.grad.isfinite().all() and low.grad.any()
    for a, b in zip(found, whole(low.detach(), labels, losses), strict=True):
        torch.testing.assert_close(a, b, atol=5e-3 if dtype.itemsize == 2 else 1e-6, rtol=0)


@pytest.mark.usefixtures("strip_bytes")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_logits_are_resized_in_float32(dtype):
    """Losses equal those of the same logits in float32; gradients are rounded once, at the end."""
    logits, labels = batch((7, 5), (29, 18))
    half = logits.detach().to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    losses = [CrossEntropyLoss(), DiceLoss()]
    found, expected = (full_size_losses(x, labels, losses) for x in (half, single))
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)
    torch.testing.assert_close(found, tuple(whole(half, labels, losses)), atol=0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_neither_losses_nor_gradients(dtype):
    """Also for a loss with a matrix product, which autocast would round."""
    logits, labels = batch()
    losses = [CrossEntropyLoss(WEIGHTS), DiceLoss(), ProductLoss()]
    expected = full_size_losses(logits, labels, losses)
    with torch.autocast("cpu", dtype=dtype):
        found = full_size_losses(logits, labels, losses)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    grads = [torch.autograd.grad(sum(values), logits)[0] for values in (found, expected)]
    torch.testing.assert_close(*grads, atol=0, rtol=0)


class ProductLoss(PixelLoss):
    """Squared sum of the probabilities' products with a matrix."""

    def sums(self, log_p, labels, pixels):
        mixed = torch.linspace(0.1, 1.3, K * K).view(K, K) @ log_p.exp().flatten(2)
        return (mixed * pixels.flatten(1).unsqueeze(1)).double().mean((0, 2))

    def value(self, sums):
        return sums.square().sum().float()


class HardPixels(CrossEntropyLoss):
    """The mean over the pixels whose label has a probability below 0.3."""

    def sums(self, log_p, labels, pixels):
        hard = log_p.gather(1, labels.unsqueeze(1)).squeeze(1) < math.log(0.3)
        return super().sums(log_p, labels, pixels * hard)


@pytest.mark.usefixtures("strip_bytes")
def test_the_sums_of_a_subclass_count():
    """Between our losses, whose sums the operator computes."""
    check(*batch(), [DiceLoss(), HardPixels(WEIGHTS), CrossEntropyLoss()])
    plain, hard = (kind() for kind in (CrossEntropyLoss, HardPixels))
    values = full_size_losses(*batch(), [plain, hard])
    assert values[1] > values[0] + 0.1


def test_channels_last_under_autocast_and_without_gradients():
    logits, labels = batch()
    plain = full_size_losses(logits, labels, [CrossEntropyLoss()])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        last = logits.to(memory_format=torch.channels_last)
        assert full_size_losses(last, labels, [CrossEntropyLoss()])[0].item() == plain.item()
    last = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    check(last, labels, [CrossEntropyLoss(), DiceLoss()])


def test_it_stands_in_a_compiled_function():
    logits, labels = batch()
    compiled = torch.compile(
        lambda x: full_size_losses(x * 2, labels, [DiceLoss()])[0] + 1, backend="eager"
    )
    expected = full_size_losses(logits * 2, labels, [DiceLoss()])[0] + 1
    assert compiled(logits).item() == expected.item()


def test_the_largest_tensors_are_strips():
    """K = 150 at 256 x 256 px: 39 MB a map of logits, of which the plain way holds several."""
    logits, labels = (
        torch.randn(1, 150, 64, 64, requires_grad=True),
        torch.zeros(1, 256, 256).long(),
    )
    with torch.profiler.profile(profile_memory=True) as profile:
        sum(full_size_losses(logits, labels, [CrossEntropyLoss(), DiceLoss()])).backward()
    allocated = [e.cpu_memory_usage for e in profile.events()]
    assert 2 << 20 < max(allocated) <= 10 << 20  # one or two strips of 4 MB


def test_what_is_refused():
    logits, labels = batch()
    losses = [CrossEntropyLoss()]
    with pytest.raises(TypeError, match="int64"):
        full_size_losses(logits, labels.int(), losses)
    with pytest.raises(ValueError, match="label 7.*0..4"):
        full_size_losses(logits, labels.masked_fill(labels == 0, 7), losses)
    with pytest.raises(ValueError, match="2 label maps for the logits of 1"):
        full_size_losses(logits[:1], labels, losses)
    with pytest.raises(ValueError, match="class_weight has 2 entries for 5"):
        full_size_losses(logits, labels, [DiceLoss([1, 2])])
    with pytest.raises(NotImplementedError):
        full_size_losses(logits, labels, [PixelLoss()])
    with pytest.raises(RuntimeError, match="once_differentiable|twice|does not require grad"):
        (loss,) = full_size_losses(logits, labels, losses)
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        grad.sum().backward()
