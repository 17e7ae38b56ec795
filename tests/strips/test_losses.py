"""fpn_neck.DiceLoss against hand-computed values and a plain one-hot reference in float64.

The loss computes in float32: values agree to 1e-6, gradients to 1e-7 (they are below 0.1).
"""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from fpn_neck import CrossEntropyLoss, DiceLoss
from fpn_neck.strips.full_size_loss import full_size_losses

IGNORE, EPS = 255, 1e-3


def logits_of(probabilities):
    """Pixels as rows of class probabilities -> logits (1, K, 1, pixels)."""
    return torch.tensor(probabilities).double().log().T[None, :, None].float()


def labels_of(labels):
    return torch.tensor(labels)[None, None]


def reference(
    logits,
    target,
    *,
    class_weight=None,
    ignore_index=IGNORE,
    absent_classes=False,
    eps=EPS,
    weight=None,
):
    """The docstring's formula, class by class in float64, ignored pixels taken out beforehand."""
    p = logits.double().softmax(1).movedim(1, -1)  # (N, H, W, K)
    keep = target != ignore_index
    p, t = p[keep], target[keep]  # (pixels, K), (pixels,)
    pixel = torch.ones(len(t)).double() if weight is None else weight.double()[keep]
    total, weights = 0.0, 0.0
    for c in range(logits.shape[1]):
        is_c = (t == c).double() * pixel
        if not absent_classes and is_c.sum() == 0:
            continue
        in_both, in_either = (p[:, c] * is_c).sum(), (p[:, c] * pixel).sum() + is_c.sum()
        dice = (2 * in_both + float(eps)) / (in_either + float(eps))
        w = 1.0 if class_weight is None else class_weight[c]
        total, weights = total + w * (1 - dice), weights + w
    return total / weights


def batch(n=2, k=4, size=(5, 7), ignored=0.2):
    logits = 2 * torch.randn(n, k, *size)
    target = torch.randint(k, (n, *size))
    target[torch.rand(n, *size) < ignored] = IGNORE
    return logits, target


# Values -----------------------------------------------------------------------------------------


def test_two_classes_by_hand():
    logits = logits_of([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    dice_0 = (2 * (0.8 + 0.6) + EPS) / ((0.8 + 0.6 + 0.3) + 2 + EPS)
    dice_1 = (2 * 0.7 + EPS) / ((0.2 + 0.4 + 0.7) + 1 + EPS)
    expected = ((1 - dice_0) + (1 - dice_1)) / 2
    loss = DiceLoss()(logits, labels_of([0, 0, 1]))
    assert loss.dim() == 0
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_ignored_pixel_by_hand():
    logits = logits_of([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    dice_0 = (2 * 0.8 + EPS) / ((0.8 + 0.3) + 1 + EPS)
    dice_1 = (2 * 0.7 + EPS) / ((0.2 + 0.7) + 1 + EPS)
    loss = DiceLoss()(logits, labels_of([0, IGNORE, 1]))
    assert loss.item() == pytest.approx(((1 - dice_0) + (1 - dice_1)) / 2, abs=1e-6)


def test_class_weight_by_hand():
    logits = logits_of([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    dice_0 = (2 * (0.8 + 0.6) + EPS) / ((0.8 + 0.6 + 0.3) + 2 + EPS)
    dice_1 = (2 * 0.7 + EPS) / ((0.2 + 0.4 + 0.7) + 1 + EPS)
    loss = DiceLoss([1.0, 3.0])(logits, labels_of([0, 0, 1]))
    assert loss.item() == pytest.approx(((1 - dice_0) + 3 * (1 - dice_1)) / 4, abs=1e-6)


def test_absent_class_by_hand():
    logits = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    dice_0 = (2 * 0.7 + EPS) / (0.8 + 1 + EPS)
    dice_1 = (2 * 0.6 + EPS) / (0.8 + 1 + EPS)
    dice_2 = EPS / (0.4 + EPS)  # no pixel of class 2
    target = labels_of([0, 1])
    without = DiceLoss()(logits, target).item()
    assert without == pytest.approx((2 - dice_0 - dice_1) / 2, abs=1e-6)
    counted = DiceLoss(absent_classes=True)(logits, target).item()
    assert counted == pytest.approx((3 - dice_0 - dice_1 - dice_2) / 3, abs=1e-6)


def test_pixel_weight_by_hand():
    logits = logits_of([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    dice_0 = (2 * (2 * 0.8 + 0.5 * 0.6) + EPS) / (2 * 0.8 + 0.5 * 0.6 + 0.3 + 2.5 + EPS)
    dice_1 = (2 * 0.7 + EPS) / (2 * 0.2 + 0.5 * 0.4 + 0.7 + 1 + EPS)
    weight = torch.tensor([2.0, 0.5, 1.0])[None, None]
    loss = DiceLoss()(logits, labels_of([0, 0, 1]), weight)
    assert loss.item() == pytest.approx(((1 - dice_0) + (1 - dice_1)) / 2, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absent_classes": True},
        {"class_weight": [0.1, 1, 2, 0.5]},
        {"class_weight": [0, 1, 0, 2], "absent_classes": True},
        {"eps": 1.0},
        {"ignore_index": 0},
        {"ignore_index": -100},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "pixel weight"])
def test_value_and_gradient_equal_the_one_hot_reference(options, weighted):
    logits, target = batch()
    target[target == 3] = 1  # class 3 is absent
    if "ignore_index" in options:
        target[target == IGNORE] = options["ignore_index"]
    weight = torch.rand(target.shape) if weighted else None
    logits.requires_grad_()
    loss, expected = (
        DiceLoss(**options)(logits, target, weight),
        reference(logits, target, weight=weight, **options),
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    (grad,) = torch.autograd.grad(loss, logits)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    assert 1e-4 < expected_grad.abs().max() < 0.1
    torch.testing.assert_close(grad, expected_grad, atol=1e-7, rtol=0)


def test_batch_is_one_set_of_pixels():
    logits, target = batch(n=2, size=(3, 4))
    side_by_side = torch.cat(list(logits), dim=-1)[None], torch.cat(list(target), dim=-1)[None]
    together, apart = DiceLoss()(logits, target), DiceLoss()(*side_by_side)
    assert together.item() == pytest.approx(apart.item(), abs=1e-6)


@pytest.mark.parametrize("absent_classes", [False, True])
def test_perfect_prediction_costs_nothing_and_the_opposite_one(absent_classes):
    _, target = batch(ignored=0)
    perfect = 50.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    loss = DiceLoss(absent_classes=absent_classes)
    assert loss(perfect, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(perfect, (target + 1) % 4).item() == pytest.approx(1, abs=1e-3)  # eps / pixels


def test_loss_weight_is_a_factor():
    logits, target = batch()
    once, thrice = DiceLoss()(logits, target), DiceLoss(loss_weight=3.0)(logits, target)
    assert thrice.item() == pytest.approx(3 * once.item(), abs=1e-6)


def test_only_the_ratios_of_class_weights_matter():
    logits, target = batch()
    ones, tens = DiceLoss([1, 2, 3, 4])(logits, target), DiceLoss([10, 20, 30, 40])(logits, target)
    assert ones.item() == pytest.approx(tens.item(), abs=1e-6)


# Ignored pixels ---------------------------------------------------------------------------------


def test_ignored_pixels_neither_move_the_value_nor_get_a_gradient():
    logits, target = batch()
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    assert 0 < ignored.sum() < ignored.numel()
    other = torch.where(ignored, 20 * torch.randn_like(logits), logits)
    logits.requires_grad_()
    loss = DiceLoss()(logits, target)
    assert loss.item() == DiceLoss()(other, target).item()
    loss.backward()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()


def test_pixel_weight_zero_is_the_same_as_ignored():
    logits, target = batch(ignored=0)
    out = torch.rand(target.shape) < 0.4
    by_weight = DiceLoss()(logits, target, (~out).float())
    by_label = DiceLoss()(logits, target.masked_fill(out, IGNORE))
    assert by_weight.item() == pytest.approx(by_label.item(), abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"absent_classes": True}, {"class_weight": [1, 2, 3, 4]}])
def test_all_ignored_is_zero_without_a_gradient_and_never_nan(options):
    logits, target = batch()
    logits.requires_grad_()
    loss = DiceLoss(**options)(logits, torch.full_like(target, IGNORE))
    loss.backward()
    assert logits.grad.eq(0).all()  # false for NaN
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("by_strips", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "label"),
    [
        (CrossEntropyLoss, {}, IGNORE),
        (CrossEntropyLoss, {"label_smoothing": 0.1}, IGNORE),
        (CrossEntropyLoss, {"label_smoothing": 0.1, "class_weight": [1.0, 0.0, 1.0]}, 1),
        (DiceLoss, {}, IGNORE),
        (DiceLoss, {"class_weight": [1.0, 0.0, 1.0]}, 1),
    ],
)
def test_what_counts_nothing_has_a_gradient_of_0_whatever_the_scale(
    kind, options, label, by_strips
):
    """2 ** 16 is GradScaler's first one."""
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target, loss = torch.full((1, 4, 4), label), kind(loss_weight=4.0, **options)
    value = full_size_losses(logits, target, [loss])[0] if by_strips else loss(logits, target)
    (value * 2**16).backward()
    assert value == 0 and not logits.grad.any()


@pytest.mark.parametrize("by_strips", [False, True])
def test_the_default_index_is_refused_where_it_is_a_class(by_strips):
    logits, target = torch.randn(1, 300, 2, 2), torch.full((1, 2, 2), 255)

    def value(loss, **options):
        if by_strips:
            return full_size_losses(logits, target, [loss], **options)[0]
        return loss(logits, target, **options)

    with pytest.raises(ValueError, match="ignore_index=255 is one of the 300 classes.*-100"):
        value(CrossEntropyLoss())
    expected = F.cross_entropy(logits, target)
    for found in (
        value(CrossEntropyLoss(ignore_index=-100)),
        value(CrossEntropyLoss(), ignore_index=-1),
    ):
        torch.testing.assert_close(found, expected)


def test_ignore_index_of_the_call_wins():
    logits, target = batch(ignored=0)
    by_call = DiceLoss()(logits, target, ignore_index=2)
    by_constructor = DiceLoss(ignore_index=2)(logits, target)
    assert by_call.item() == by_constructor.item() != DiceLoss()(logits, target).item()


def test_mmsegs_dice_keeps_ignored_pixels_in_the_denominator():
    """The difference that DiceLoss is here for; if it goes away in mmseg, this test says so."""
    reason = "mmseg is not installed: pip install fpn_neck[mm]"
    pytest.importorskip("torchvision", reason=reason)
    losses = pytest.importorskip("mmseg.models.losses", reason=reason)
    theirs, ours = losses.DiceLoss(use_sigmoid=False, naive_dice=True), DiceLoss()
    target = labels_of([0, 1, 1, IGNORE])
    perfect = 50.0 * torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]]).T[None, :, None]
    perfect.requires_grad_()
    assert ours(perfect, target).item() == pytest.approx(0, abs=1e-6)
    # One Dice over 3 labelled pixels, with 4 in the sum of the predictions.
    assert theirs(perfect, target).item() == pytest.approx(1 - (6 + EPS) / (4 + 3 + EPS), abs=1e-6)

    logits, target = batch()
    logits.requires_grad_()
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    changed = logits.detach().masked_fill(ignored, 0.0).requires_grad_()
    assert ours(logits, target).item() == ours(changed, target).item()
    absolute = losses.DiceLoss(use_sigmoid=True, naive_dice=True)  # a softmax always sums to 1
    assert abs(absolute(logits, target) - absolute(changed, target)) > 1e-3
    (their_grad,) = torch.autograd.grad(absolute(logits, target), logits)
    (our_grad,) = torch.autograd.grad(ours(logits, target), logits)
    assert their_grad[ignored].any() and not our_grad[ignored].any()


# Types and modules ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype):
    logits, target = batch()
    logits = logits.to(dtype).requires_grad_()
    loss = DiceLoss()(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == DiceLoss()(logits.detach().float(), target).item()
    loss.backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all() and logits.grad.any()


def test_autocast_does_not_lower_the_precision():
    logits, target = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = DiceLoss()(logits, target)
    assert low.item() == pytest.approx(DiceLoss()(logits, target).item(), abs=1e-6)


def test_weights_move_with_the_module_but_are_no_part_of_a_checkpoint():
    loss = DiceLoss([1, 2, 3])
    assert not loss.state_dict() and not list(loss.parameters())
    assert loss.to("meta").class_weight.device.type == "meta"


def test_pickle_and_name():
    loss = pickle.loads(pickle.dumps(DiceLoss([1, 2, 3, 4], loss_name="loss_masks")))
    logits, target = batch()
    assert loss.loss_name == "loss_masks" and DiceLoss().loss_name == "loss_dice"
    assert loss(logits, target).item() == DiceLoss([1, 2, 3, 4])(logits, target).item()


def test_inputs_stay_as_they_are():
    logits, target = batch()
    copies = logits.clone(), target.clone()
    DiceLoss()(logits, target)
    assert torch.equal(logits, copies[0]) and torch.equal(target, copies[1])


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [4, 17, 254, -1])
def test_a_label_out_of_range_is_named(label):
    logits, target = batch()
    target[1, 2, 3] = label
    with pytest.raises(ValueError, match=rf"label {label}; labels must be in 0\.\.3"):
        DiceLoss()(logits, target)


def test_255_is_out_of_range_where_something_else_is_ignored():
    logits, target = batch()
    with pytest.raises(ValueError, match="label 255"):
        DiceLoss(ignore_index=-1)(logits, target)


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 5, 7), (2, 1, 5, 7), (2, 4, 5, 7)], ids=str)
def test_a_target_of_another_shape_is_refused(shape):
    logits, _ = batch()
    with pytest.raises(ValueError, match=r"target of shape.*\(2, 4, 5, 7\).*resize the logits"):
        DiceLoss()(logits, torch.zeros(shape, dtype=torch.long))


def test_a_wrong_number_of_class_weights_is_refused():
    with pytest.raises(ValueError, match="class_weight has 3 entries for 4 classes"):
        DiceLoss([1, 1, 1])(*batch())


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (r"class_weight\[1\]=-1", {"class_weight": [1, -1]}),
        ("eps=0", {"eps": 0}),
        ("eps=-1", {"eps": -1}),
        ("loss_weight=-2", {"loss_weight": -2}),
        ("loss_weight=1000", {"loss_weight": 10**400}),  # more than a float can hold
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(names, options):
    with pytest.raises(ValueError, match=names):
        DiceLoss(**options)


def test_a_large_image_is_summed_exactly_enough():
    """A million float32, added one after the other, would be some per cent off: a loss below 0."""
    logits = torch.zeros(1, 2, 1024, 1024)
    logits[:, 0] = math.log(99)  # p = 0.99 for class 0, everywhere
    expected = 1 - 2 * 0.99 / 1.99
    loss = DiceLoss()(logits, torch.zeros(1, 1024, 1024, dtype=torch.long))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": [1e-4] * 4},
        {"eps": 10.0},
        {"eps": 10**30},
        {"eps": 1.0, "class_weight": [0.1] * 4},
    ],
)
def test_the_mean_divides_by_the_sum_of_the_weights_whatever_eps_is(options):
    logits, target = batch()
    expected = reference(logits, target, **options).item()
    assert DiceLoss(**options)(logits, target).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 7), (2,), (2, 4, 5, 7), (2, 1, 5, 7)], ids=str)
def test_a_pixel_weight_of_another_shape_is_refused(shape):
    logits, target = batch()
    with pytest.raises(ValueError, match="weight"):
        DiceLoss()(logits, target, torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_labels_of_another_dtype_are_refused_by_name(dtype):
    logits, target = batch()
    with pytest.raises((TypeError, ValueError), match="target"):
        DiceLoss()(logits, target.to(dtype))
