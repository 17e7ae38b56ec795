"""`fpn_neck.FPNHead` against mmseg's head with the same weights; its losses."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402  (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from helpers.mmseg_parts import BN, STRIDES, K, samples_of, truth  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from torch import nn  # noqa: E402

from fpn_neck.mm.seg.losses import check_decode_head  # noqa: E402

CHANNELS = [8, 12, 16, 20]
ATOL = 1e-6
GN = {"type": "GN", "num_groups": 4}


def head(kind, **options):
    cfg = dict(
        type=kind,
        in_channels=CHANNELS,
        in_index=[0, 1, 2, 3],
        feature_strides=STRIDES,
        channels=16,
        num_classes=K,
        dropout_ratio=0.0,
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(cfg | options)


def pair(**options):
    """mmseg's head and ours with the same weights; they are scaled so that gradients show."""
    theirs, ours = head("FPNHead", **options), head("fpn_neck.FPNHead", **options)
    with torch.no_grad():
        theirs.conv_seg.weight.normal_(std=0.3)
        theirs.conv_seg.bias.normal_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def pyramid(height=40, width=28, batch=2):
    """Maps of an image of any size, coarser level by level, rounded up as convolutions do."""
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


norms = pytest.mark.parametrize("norm_cfg", [None, BN, GN], ids=["none", "BN", "GN"])
corners = pytest.mark.parametrize("align_corners", [False, True])


# ------------------------------------------------------------------------- against mmseg.FPNHead


@norms
@corners
@pytest.mark.parametrize("size", [(64, 96), (40, 28), (33, 65)])
def test_parity_with_mmseg(assert_parity, norm_cfg, align_corners, size):
    """Logits, gradients of all inputs and weights, batch norm's statistics."""
    ours, theirs = pair(norm_cfg=norm_cfg, align_corners=align_corners)
    assert_parity(ours, theirs, pyramid(*size))


def test_mmsegs_head_loads_our_weights_too():
    ours, theirs = pair(norm_cfg=BN)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@norms
def test_equal_losses_for_the_same_seed(norm_cfg):
    # No class_weight: with it, mmseg's CrossEntropyLoss cannot take ignored pixels.
    losses = [dict(type="CrossEntropyLoss", avg_non_ignore=True), dict(type="DiceLoss")]
    ours, theirs = pair(norm_cfg=norm_cfg, dropout_ratio=0.3, loss_decode=losses)
    maps, (samples, _) = pyramid(), truth(40, 28)
    found = []
    for module in (ours, theirs):
        torch.manual_seed(7)
        found.append(module.loss(maps, samples, train_cfg={}))
    assert list(found[0]) == list(found[1]) == ["loss_ce", "loss_dice", "acc_seg"]
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=ATOL, rtol=0)
    torch.manual_seed(8)  # the dropout is really on
    assert ours.loss(maps, samples, train_cfg={})["loss_ce"] != found[0]["loss_ce"]


@corners
def test_equal_predictions(align_corners):
    ours, theirs = pair(norm_cfg=GN, align_corners=align_corners)
    maps, metas = pyramid(), [{"img_shape": (40, 28), "pad_shape": (40, 28)}] * 2
    ours.eval(), theirs.eval()
    a, b = (m.predict(maps, metas, test_cfg={}) for m in (ours, theirs))
    assert a.shape == (2, K, 40, 28)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("init", [False, True], ids=["built", "after init_weights"])
def test_weights_are_drawn_as_mmseg_draws_them(init):
    """Standard deviation of every convolution of the towers within 5 %, of the classifier 20 %."""
    wide = {"in_channels": [64] * 4, "channels": 64, "norm_cfg": BN}
    heads = head("fpn_neck.FPNHead", **wide), head("FPNHead", **wide)
    for module in heads:
        if init:
            module.init_weights()
    ours, theirs = (m.state_dict() for m in heads)
    for name, weight in ours.items():
        if weight.dim() == 4 and weight.shape[-1] == 3:
            assert weight.std() / theirs[name].std() == pytest.approx(1, abs=0.05), name
            assert abs(weight.mean()) < 0.05 * weight.std()
    if init:  # before, mmseg leaves the classifier as torch draws it
        for state in (ours, theirs):
            assert state["conv_seg.weight"].std() == pytest.approx(0.01, rel=0.2)
            assert (state["conv_seg.bias"] == 0).all()


def test_in_index_selects_levels():
    ours, theirs = pair(in_index=[1, 2, 3, 4])
    maps = pyramid()
    shifted = [torch.randn(2, 3, 20, 14), *maps]
    torch.testing.assert_close(ours(shifted), theirs(shifted), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(shifted), head_on(ours, maps), atol=0, rtol=0)


def head_on(module, maps):
    other = copy.copy(module)
    other.in_index = [0, 1, 2, 3]
    return other(maps)


# ------------------------------------------------------------------------------------- our own


def test_cat_is_our_plain_head_with_the_same_weights():
    ours = head("fpn_neck.FPNHead", merge="cat", norm_cfg=GN)
    plain = fpn_neck.SegHead(CHANNELS, K, channels=16, merge="cat", norm_cfg=GN, dropout=0.0)
    assert ours.conv_seg.in_channels == 4 * 16
    plain.load_state_dict(ours.state_dict(), strict=True)
    maps = pyramid()
    torch.testing.assert_close(ours(maps), plain(maps), atol=ATOL, rtol=0)
    added = head("fpn_neck.FPNHead", norm_cfg=GN)
    assert added.conv_seg.in_channels == 16
    assert ours(maps).shape == added(maps).shape == (2, K, 10, 7)


@corners
@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(40, 28), (37, 29)])
def test_the_loss_on_a_thinned_grid_by_hand(n, size, align_corners):
    ours = head("fpn_neck.FPNHead", norm_cfg=GN, loss_stride=n, align_corners=align_corners)
    maps, (samples, labels) = pyramid(*size), truth(*size)
    found = ours.loss(maps, samples, train_cfg={})

    rows, columns = (range(n // 2, side, n) for side in size)
    thin = labels[:, list(rows)][:, :, list(columns)]
    logits = F.interpolate(ours(maps), thin.shape[1:], mode="bilinear", align_corners=align_corners)
    loss = F.cross_entropy(logits, thin, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(found["loss_ce"], loss, atol=ATOL, rtol=0)
    seen = thin != 255
    accuracy = 100 * (logits.argmax(1) == thin)[seen].float().mean()
    torch.testing.assert_close(found["acc_seg"].squeeze(), accuracy, atol=1e-3, rtol=0)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_gradient_reaches_every_weight_and_level(merge):
    dice = dict(type="fpn_neck.DiceLoss")
    ours = head("fpn_neck.FPNHead", merge=merge, norm_cfg=GN, loss_stride=2, loss_decode=dice)
    maps = [m.requires_grad_() for m in pyramid()]
    ours.loss(maps, truth(40, 28)[0], train_cfg={})["loss_dice"].backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(m.grad.abs().max() > 0 for m in maps)


def test_lovasz_loss_on_a_thinned_grid():
    """mmseg's loss takes a view of all labels, which are every second one of every second row."""
    lovasz = dict(type="LovaszLoss", reduction="none")
    ours = head("fpn_neck.FPNHead", norm_cfg=GN, loss_stride=2, loss_decode=lovasz)
    maps, (samples, labels) = pyramid(40, 28), truth(40, 28)
    found = ours.loss(maps, samples, train_cfg={})["loss_lovasz"]
    thin = labels[:, 1::2, 1::2].contiguous()
    logits = F.interpolate(ours(maps), thin.shape[1:], mode="bilinear", align_corners=False)
    expected = MODELS.build(lovasz)(logits, thin, ignore_index=255)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


def test_our_dice_gets_the_heads_ignore_index():
    dice = dict(type="fpn_neck.DiceLoss")
    ours = head("fpn_neck.FPNHead", loss_decode=dice, ignore_index=2)
    maps, (samples, labels) = pyramid(), truth(40, 28)
    labels[labels == 255] = 0
    for sample, label in zip(samples, labels, strict=True):
        sample.gt_sem_seg.data = label[None]
    found = ours.loss(maps, samples, train_cfg={})["loss_dice"]
    logits = F.interpolate(ours(maps), (40, 28), mode="bilinear", align_corners=False)
    expected = fpn_neck.DiceLoss(ignore_index=2)(logits, labels)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)
    assert abs(fpn_neck.DiceLoss()(logits, labels) - expected) > 1e-3


CE = dict(type="CrossEntropyLoss")
LOSSES = {
    "mean of all": [CE],
    "mean of labelled": [CE | dict(avg_non_ignore=True, loss_weight=0.4)],
    "one name twice": [CE, CE | dict(loss_weight=0.5)],
    "sum": [CE | dict(reduction="sum")],  # from here on by mmseg's own code
    "mmseg's Dice beside": [CE, dict(type="DiceLoss")],
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=list(LOSSES))
@corners
def test_losses_and_gradients_are_mmsegs(losses, align_corners):
    ours, theirs = pair(norm_cfg=GN, loss_decode=losses, align_corners=align_corners)
    maps, (samples, _) = pyramid(), truth(40, 28)
    found = []
    for module in (ours, theirs):
        values = module.loss(maps, copy.deepcopy(samples), train_cfg={})
        sum(v for k, v in values.items() if "loss" in k).backward()
        found.append({k: v.detach() for k, v in values.items()})
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        assert value.shape == found[1][name].shape
        torch.testing.assert_close(value, found[1][name], atol=ATOL, rtol=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=ATOL, rtol=1e-4, msg=name)


def test_class_weights_are_torchs():
    """mmseg's own loss fails on them where a label is ignored."""
    weights = [1.0, 0.2, 3.0, 0.0, 1.0]
    ce = CE | dict(avg_non_ignore=True, class_weight=weights)
    ours, (samples, labels) = head("fpn_neck.FPNHead", loss_decode=ce), truth(40, 28)
    maps = pyramid()
    found = ours.loss(maps, samples, train_cfg={})["loss_ce"]
    logits = F.interpolate(ours(maps), (40, 28), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=1e-5)


def test_hard_example_mining_is_mmsegs():
    sampler = dict(type="OHEMPixelSampler", thresh=0.3, min_kept=50)
    ours, theirs = pair(norm_cfg=GN, sampler=sampler)
    maps, (samples, _) = pyramid(), truth(40, 28)
    a, b = (m.loss(maps, samples, train_cfg={})["loss_ce"] for m in (ours, theirs))
    torch.testing.assert_close(a, b, atol=ATOL, rtol=0)


@pytest.mark.parametrize("losses", [[CE], [dict(type="DiceLoss")]], ids=["rows", "whole"])
def test_a_wrong_label_names_its_photo(losses):
    ours = head("fpn_neck.FPNHead", loss_decode=losses)
    maps, (samples, labels) = pyramid(), truth(40, 28)
    labels[1, 8, 3] = 77
    samples = samples_of(labels)
    samples[1].set_metainfo({"seg_map_path": "masks/0042.png"})
    with pytest.raises(ValueError, match=r"masks/0042.png: .* label 77.* 0..4 .*num_classes"):
        ours.loss(maps, samples, train_cfg={})


@pytest.mark.parametrize("one_logit", [False, True])
def test_the_loss_compiles_without_a_graph_break(one_logit):
    options = dict(num_classes=2, out_channels=1, loss_decode=SIGMOID) if one_logit else {}
    ours, labels = head("fpn_neck.FPNHead", norm_cfg=GN, **options), truth(40, 28)[1]
    samples = samples_of(labels.clamp(max=1) if one_logit else labels)
    compiled = torch.compile(
        lambda maps: ours.loss(maps, samples, train_cfg={}), fullgraph=True, backend="eager"
    )
    maps = pyramid()
    found, expected = compiled(maps), ours.loss(maps, samples, train_cfg={})
    assert list(found) == list(expected) == ["loss_ce", "acc_seg"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=ATOL, rtol=1e-6)


def test_a_changed_loss_counts_from_the_next_step():
    ours = head("fpn_neck.FPNHead", loss_decode=[CE, dict(type="fpn_neck.DiceLoss")])
    maps, (samples, _) = pyramid(), truth(40, 28)
    before = ours.loss(maps, samples, train_cfg={})
    ours.loss_decode[0].loss_weight, ours.loss_decode[1].loss_weight = 3.0, 0.5
    after = ours.loss(maps, samples, train_cfg={})
    torch.testing.assert_close(after["loss_ce"], 3 * before["loss_ce"], atol=ATOL, rtol=0)
    torch.testing.assert_close(after["loss_dice"], before["loss_dice"] / 2, atol=ATOL, rtol=0)


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_class_weights_that_change_in_place_count_from_the_next_step(kind):
    weighted = dict(CE, class_weight=[1.0] * K, avg_non_ignore=True)
    heads = pair(loss_decode=weighted)
    maps, samples = pyramid(), samples_of(torch.randint(0, K, (2, 40, 28)))
    found = []
    for step in range(4):
        if step % 2:
            for one in heads:
                one.loss_decode.class_weight[step] = 9.0
        else:
            for one in heads:
                one.loss_decode.class_weight = kind([1.0 + step] + [1.0] * (K - 1))
        losses = [one.loss(maps, samples, train_cfg={})["loss_ce"] for one in heads]
        torch.testing.assert_close(*losses, atol=ATOL, rtol=1e-5)
        found.append(losses[0].item())
    assert len(set(found)) == 4


def ten_times(module, name="forward"):
    call = getattr(module, name)
    setattr(module, name, lambda *args, **options: 10 * call(*args, **options))


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "fpn_neck.DiceLoss"])
@pytest.mark.parametrize(
    "change",
    [ten_times, lambda loss: loss.register_forward_hook(lambda _, args, out: 10 * out)],
    ids=["forward", "hook"],
)
def test_a_hook_on_a_loss_and_a_replaced_forward_count(loss, change):
    ours = head("fpn_neck.FPNHead", loss_decode=dict(type=loss, loss_name="loss_one"))
    maps, (samples, _) = pyramid(), truth(40, 28)
    before = ours.loss(maps, samples, train_cfg={})["loss_one"]
    change(ours.loss_decode)
    after = ours.loss(maps, samples, train_cfg={})["loss_one"]
    torch.testing.assert_close(after, 10 * before, atol=ATOL, rtol=1e-5)


def test_a_replaced_criterion_counts():
    ours = head("fpn_neck.FPNHead")
    maps, (samples, _) = pyramid(), truth(40, 28)
    before = ours.loss(maps, samples, train_cfg={})["loss_ce"]
    ten_times(ours.loss_decode, "cls_criterion")
    after = ours.loss(maps, samples, train_cfg={})["loss_ce"]
    torch.testing.assert_close(after, 10 * before, atol=ATOL, rtol=1e-5)


def test_another_input_transform_is_refused():
    head("fpn_neck.FPNHead", input_transform="multiple_select")
    with pytest.raises(ValueError, match="input_transform='resize_concat': every level"):
        head("fpn_neck.FPNHead", input_transform="resize_concat")


def test_attributes_are_mmsegs():
    ours, theirs = pair(norm_cfg=GN, conv_cfg={"type": "Conv2d"}, act_cfg={"type": "LeakyReLU"})
    names = [n for n in vars(theirs) if not n.startswith("_")]
    assert {"feature_strides", "norm_cfg", "conv_cfg", "act_cfg"} <= set(names)
    assert {n: getattr(ours, n) for n in names} == {n: getattr(theirs, n) for n in names}


SIGMOID = dict(type="CrossEntropyLoss", use_sigmoid=True)
ONE_LOGIT_LOSSES = {
    "mean of all": SIGMOID,
    "mean of labelled": SIGMOID | dict(avg_non_ignore=True, loss_weight=0.4),
    "weight of class 1": SIGMOID | dict(class_weight=[3.0]),  # by mmseg's own code, as the next
    "sum": SIGMOID | dict(reduction="sum"),
}


@pytest.mark.parametrize("loss", ONE_LOGIT_LOSSES.values(), ids=list(ONE_LOGIT_LOSSES))
@corners
def test_losses_on_one_logit_are_mmsegs(loss, align_corners):
    options = dict(num_classes=2, out_channels=1, threshold=0.6, loss_decode=loss)
    ours, theirs = pair(norm_cfg=GN, align_corners=align_corners, **options)
    maps, labels = pyramid(), torch.randint(0, 2, (2, 40, 28))
    labels[:, :3] = 255
    found = []
    for module in (ours, theirs):
        values = module.loss(maps, samples_of(labels), train_cfg={})
        values["loss_ce"].backward()
        found.append(values)
    torch.testing.assert_close(found[0]["loss_ce"], found[1]["loss_ce"], atol=ATOL, rtol=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=ATOL, rtol=1e-4, msg=name)
    logits = F.interpolate(ours(maps), (40, 28), mode="bilinear", align_corners=align_corners)
    correct = ((logits[:, 0].sigmoid() > 0.6) == labels)[labels != 255]
    expected = 100 * correct.float().mean()
    torch.testing.assert_close(found[0]["acc_seg"].squeeze(), expected, atol=1e-3, rtol=0)


def test_our_dice_on_one_logit_is_that_of_two_classes():
    dice = dict(type="fpn_neck.DiceLoss")
    ours = head("fpn_neck.FPNHead", num_classes=2, out_channels=1, loss_decode=dice)
    maps, labels = pyramid(), torch.randint(0, 2, (2, 40, 28))
    found = ours.loss(maps, samples_of(labels), train_cfg={})["loss_dice"]
    p = F.interpolate(ours(maps), (40, 28), mode="bilinear")[:, 0].sigmoid()
    t, dices = labels.float(), []
    for a, b in ((p, t), (1 - p, 1 - t)):
        dices.append((2 * (a * b).sum() + 1e-3) / (a.sum() + b.sum() + 1e-3))
    torch.testing.assert_close(found, 1 - sum(dices) / 2, atol=ATOL, rtol=1e-5)


def test_one_logit_without_a_labelled_pixel_has_no_loss():
    ours = head("fpn_neck.FPNHead", num_classes=2, out_channels=1, loss_decode=SIGMOID)
    found = ours.loss(pyramid(), samples_of(torch.full((2, 40, 28), 255)), train_cfg={})
    assert found["loss_ce"] == 0


@pytest.mark.parametrize("options", [dict(num_classes=1), dict(num_classes=2, out_channels=1)])
def test_softmax_over_one_logit_is_refused(options):
    with pytest.raises(ValueError, match="one logit .*out_channels=1.*set use_sigmoid=True"):
        head("fpn_neck.FPNHead", **options)


TVERSKY = dict(type="TverskyLoss")


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (dict(type="DiceLoss"), "DiceLoss .* is 0.993 for right labels and 0.001"),
        ([SIGMOID, dict(type="DiceLoss", use_sigmoid=False)], "DiceLoss"),
        (TVERSKY, "TverskyLoss .* is 0.000 for right labels and 0.000 for"),
    ],
)
def test_a_loss_that_is_not_lower_for_right_labels_is_refused(loss, words):
    options = dict(num_classes=2, out_channels=1, loss_decode=loss)
    with pytest.warns(UserWarning, match=f"^loss_decode: {words}.*CrossEntropyLoss"):
        head("fpn_neck.FPNHead", **options)
    stock = nn.ModuleDict({"decode_head": head("mmseg.FPNHead", **options)})
    with pytest.raises(ValueError, match=f"^config: model.decode_head.loss_decode: {words}"):
        check_decode_head(stock)
    check_decode_head(nn.ModuleDict({"auxiliary_head": stock.decode_head}))  # as STDC's


@pytest.mark.parametrize(
    "loss",
    [
        SIGMOID,
        dict(type="SiLogLoss"),
        dict(type="LovaszLoss", loss_type="binary", reduction="none"),
    ],
)
def test_a_loss_that_is_lower_for_right_labels_passes(loss):
    options = dict(num_classes=2, out_channels=1, loss_decode=loss)
    check_decode_head(nn.ModuleDict({"decode_head": head("mmseg.FPNHead", **options)}))
    many = head("mmseg.FPNHead", loss_decode=TVERSKY)
    check_decode_head(nn.ModuleDict({"decode_head": many}))


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_logit_tells_two_labels_apart(num_classes):
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    ours = head("fpn_neck.FPNHead", num_classes=num_classes, out_channels=1, loss_decode=loss)
    samples = samples_of(torch.randint(0, 2, (2, 40, 28)))
    assert ours.loss(pyramid(), samples, train_cfg={})["loss_ce"].isfinite()
    with pytest.raises(ValueError, match="label 2"):
        ours.loss(pyramid(), samples_of(torch.full((2, 40, 28), 2)), train_cfg={})


@pytest.mark.parametrize("scope", ["fpn_neck", "mmengine", "mmdet", "mmseg"])
def test_the_default_loss_is_mmsegs_under_any_scope(scope):
    from mmseg.models.losses import CrossEntropyLoss

    import fpn_neck.registry  # noqa: F401

    cfg = dict(
        type="fpn_neck.FPNHead",
        in_channels=CHANNELS,
        in_index=[0, 1, 2, 3],
        feature_strides=STRIDES,
        channels=16,
        num_classes=K,
    )
    with DefaultScope.overwrite_default_scope(scope):
        assert type(MODELS.build(cfg).loss_decode) is CrossEntropyLoss
