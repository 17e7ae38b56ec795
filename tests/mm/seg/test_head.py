"""The mmseg adapters against mmseg's own head, metric and inference."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402  (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import METRICS, MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from torch import nn  # noqa: E402

from fpn_neck.mm.seg.losses import check_decode_head  # noqa: E402

K = 5
CHANNELS = [8, 12, 16, 20]
STRIDES = [4, 8, 16, 32]
ATOL = 1e-6
BN, GN = {"type": "BN"}, {"type": "GN", "num_groups": 4}


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


def truth(height, width, batch=2):
    """Labels with ignored pixels."""
    labels = torch.randint(0, K, (batch, 1, height, width))
    labels[:, :, :3] = 255
    return samples_of(labels[:, 0]), labels[:, 0]


def samples_of(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=x[None])) for x in labels]


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


# -------------------------------------------------------------------------------- a whole model


def segmentor(neck, decode_head, type="EncoderDecoder", **options):
    cfg = dict(
        type=type,
        data_preprocessor=dict(type="SegDataPreProcessor"),
        backbone=dict(type="ResNetV1c", depth=18, base_channels=8, norm_cfg=BN),
        neck=dict(type=neck, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
        decode_head=dict(
            type=decode_head,
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=STRIDES,
            channels=16,
            num_classes=K,
            dropout_ratio=0.1,
            norm_cfg=BN,
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss"),
        )
        | options,
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(ConfigDict(cfg))


SHAPES = dict(img_shape=(60, 50), pad_shape=(64, 56), ori_shape=(123, 97))


def predictor(test_cfg=None, **options):
    """A segmentor and mmseg's with the same weights."""
    theirs = segmentor("FPN", "FPNHead", **options)
    theirs.init_weights()
    torch.nn.init.normal_(theirs.decode_head.conv_seg.weight)
    ours = segmentor("FPN", "FPNHead", type="fpn_neck.EncoderDecoder", **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (ours, theirs):
        model.eval().test_cfg.update(test_cfg or {})
    return ours, theirs


def predictions(models, metas, size=(64, 56), n=2):
    images, (samples, _) = torch.randn(n, 3, *size), truth(*size, batch=n)
    for sample in samples:
        sample.set_metainfo(metas)
    with torch.no_grad():
        return [model.predict(images, copy.deepcopy(samples)) for model in models]


@pytest.mark.parametrize(
    "metas",
    [
        dict(img_shape=(64, 56), ori_shape=(64, 56)),
        SHAPES | dict(padding_size=[0, 6, 0, 4]),
        SHAPES | dict(img_padding_size=[2, 4, 1, 3]),
        dict(img_shape=(64, 56), ori_shape=(20, 31)),
    ],
    ids=["same size", "padded", "padded on all sides", "smaller photo"],
)
def test_predicted_labels_and_logits_are_mmsegs(metas):
    """The logits are not computed before they are read."""
    ours, theirs = predictions(predictor(), metas)
    for a, b in zip(ours, theirs, strict=True):
        assert "_data" not in vars(a.seg_logits)
        assert list(a.to_dict()["seg_logits"].keys()) == ["data"]
        assert "_data" not in vars(a.seg_logits)
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, atol=1e-5, rtol=1e-5)
        assert a.pred_sem_seg.shape == b.pred_sem_seg.shape == metas["ori_shape"]
        x, logits = a.pred_sem_seg.data, b.seg_logits.data
        assert x.unique().numel() > 1 and x.dtype == torch.int64
        # Where labels differ, the logits of both tie within rounding.
        torch.testing.assert_close(logits.gather(0, x)[0], logits.max(0).values, atol=1e-5, rtol=0)
        assert (x == b.pred_sem_seg.data).float().mean() > 0.999


ONE_LOGIT = dict(num_classes=2, out_channels=1, threshold=0.4, loss_decode=SIGMOID)
FLIPPED = dict(flip=True, flip_direction="horizontal")


@pytest.mark.parametrize(
    ("test_cfg", "metas"),
    [
        ({}, SHAPES),
        (dict(keep_logits=True), SHAPES),
        (dict(mode="slide", crop_size=(32, 32), stride=(16, 16)), SHAPES),
        ({}, SHAPES | FLIPPED),
    ],
    ids=["rows", "keep_logits", "slide", "flip"],
)
def test_labels_of_one_logit_are_integers(test_cfg, metas):
    ours, theirs = predictions(predictor(test_cfg, **ONE_LOGIT), metas)
    for a, b in zip(ours, theirs, strict=True):
        assert a.pred_sem_seg.data.dtype == torch.int64
        assert a.pred_sem_seg.data.unique().tolist() == [0, 1]
        near = (b.seg_logits.data - 0.4).abs() < 1e-5
        assert ((a.pred_sem_seg.data == b.pred_sem_seg.data) | near).all()
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, atol=1e-5, rtol=1e-5)


def test_logits_outlive_copies_pickles_and_slices():
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    expected = theirs[0].seg_logits.data
    for sample in (ours[0].to("cpu"), copy.deepcopy(ours[0]), ours[0].clone()):
        torch.testing.assert_close(sample.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    dumped = pickle.loads(pickle.dumps(ours[0]))
    torch.testing.assert_close(dumped.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    part = ours[0].seg_logits[3:9, 4:8].data
    torch.testing.assert_close(part, expected[:, 3:9, 4:8], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda found: found["data"],
        lambda found: found.get("data"),
        lambda found: dict(found)["data"],
        lambda found: {**found}["data"],
        lambda found: found.copy()["data"],
        lambda found: copy.copy(found)["data"],
        lambda found: next(iter(found.values())),
        lambda found: dict(found.items())["data"],
        lambda found: found.pop("data"),
        lambda found: found.popitem()[1],
        lambda found: found.setdefault("data", 3),
        lambda found: (found | {})["data"],
        lambda found: pickle.loads(pickle.dumps(found))["data"],
        lambda found: copy.deepcopy(found)["data"],
        lambda found: type(found)(found)["data"],
    ],
)
def test_an_evaluator_can_read_logits_in_any_way(read):
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    found = ours[0].to_dict()["seg_logits"]
    assert "data" in found and len(found) == 1 and found.get("other", 3) == 3
    torch.testing.assert_close(read(found), theirs[0].seg_logits.data, atol=1e-5, rtol=1e-5)


def test_logits_can_be_asked_for_again_after_an_error():
    """By a smaller batch, when the memory was full."""
    from fpn_neck.mm.seg.logits import LazyLogits

    answers = [MemoryError("full"), torch.ones(2, 3, 4)]

    def compute():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    logits = LazyLogits(compute)
    found = logits.to_dict()
    with pytest.raises(MemoryError):
        found["data"]
    assert found["data"].sum() == logits.data.sum() == 24


@pytest.mark.parametrize("leave", [lambda x: x.pop("data"), lambda x: delattr(x, "data")])
def test_logits_can_be_left_out_of_a_sample(leave):
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    for sample in (ours[0], theirs[0]):
        leave(sample.seg_logits)
        assert "data" not in sample.seg_logits and not hasattr(sample.seg_logits, "data")
        assert dict(sample.to_dict()["seg_logits"]) == {}


def test_logits_keep_their_gradient():
    """As mmseg's do, outside of ``torch.no_grad()``."""
    photo, grads = torch.randn(1, 3, 64, 56), []
    for model in predictor():
        image = photo.clone().requires_grad_()
        sample = SegDataSample(metainfo=dict(img_shape=(64, 56), ori_shape=(50, 40)))
        (found,) = model.predict(image, [sample])
        assert found.pred_sem_seg.data.shape == (1, 50, 40)
        found.seg_logits.data[:, 3, 4].square().sum().backward()
        grads.append(image.grad)
    assert grads[1].abs().max() > 0
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_mmsegs_test_time_augmentation_runs_on_our_segmentor():
    merged = []
    for model in predictor():
        with DefaultScope.overwrite_default_scope("mmseg"):
            tta = MODELS.build(dict(type="SegTTAModel", module=model))
        torch.manual_seed(3)
        metas = [SHAPES | {"img_path": "a.jpg"} | m for m in ({}, FLIPPED)]
        views = [predictions([model], m, n=1)[0] for m in metas]
        merged.append(tta.merge_preds(list(zip(*views, strict=True)))[0])
    ours, theirs = (m.pred_sem_seg.data for m in merged)
    assert ours.unique().numel() > 1 and (ours == theirs).float().mean() > 0.999


@pytest.mark.parametrize("test_cfg", [{}, dict(keep_logits=True)], ids=["rows", "keep_logits"])
def test_test_time_augmentation_of_one_logit_averages_probabilities(test_cfg):
    """mmseg's takes the sigmoid twice, and then its threshold of 0.3 makes every label 1."""
    model, _ = predictor(test_cfg, **ONE_LOGIT | dict(threshold=0.3))
    with torch.no_grad():
        model.decode_head.conv_seg.bias.fill_(-0.85)  # sigmoid 0.3
    tta = MODELS.build(dict(type="fpn_neck.SegTTAModel", module=model))
    torch.manual_seed(3)
    metas = [SHAPES | {"img_path": "a.jpg"} | m for m in ({}, FLIPPED)]
    views = [predictions([model], m, n=1)[0][0] for m in metas]
    expected = sum(view.seg_logits.data for view in views) / 2 > 0.3
    found = tta.merge_preds([views])[0].pred_sem_seg.data
    assert expected.unique().numel() == 2
    assert found.dtype == torch.int64 and torch.equal(found, expected.long())


@pytest.mark.parametrize(
    ("test_cfg", "metas"),
    [
        (dict(keep_logits=True), {}),
        (dict(mode="slide", crop_size=(32, 32), stride=(16, 16)), {}),
        ({}, dict(flip=True, flip_direction="horizontal")),
    ],
    ids=["asked for", "slide", "flipped"],
)
def test_logits_are_kept_where_mmsegs_way_is_taken(test_cfg, metas):
    metas = dict(img_shape=(64, 56), pad_shape=(64, 56), ori_shape=(64, 56)) | metas
    ours, theirs = predictions(predictor(test_cfg), metas, n=1)
    torch.testing.assert_close(
        ours[0].seg_logits.data, theirs[0].seg_logits.data, atol=1e-5, rtol=0
    )


LAST = K - 1  # a label that no other one beats after `favour_last`


def favour_last(logits):
    logits = logits.clone()
    logits[:, LAST] += 1e4
    return logits


@pytest.mark.parametrize("method", ["inference", "whole_inference", "encode_decode"])
def test_a_subclass_changes_the_logits_by_any_of_mmsegs_methods(method):
    model, _ = predictor()

    def changed(self, *args, **options):
        return favour_last(getattr(super(kind, self), method)(*args, **options))

    kind = type("Changed", (type(model),), {method: changed})
    model.__class__ = kind
    (found,) = predictions([model], SHAPES, n=1)
    assert (found[0].pred_sem_seg.data == LAST).all()


@pytest.mark.parametrize("where", ["head", "model"])
def test_a_replaced_method_of_an_instance_is_called(where):
    model, _ = predictor()
    part, name = {
        "head": (model.decode_head, "predict_by_feat"),
        "model": (model, "postprocess_result"),
    }[where]
    call = getattr(part, name)
    setattr(part, name, lambda logits, *args: call(favour_last(logits), *args))
    (found,) = predictions([model], SHAPES, n=1)
    assert (found[0].pred_sem_seg.data == LAST).all()


def test_predicting_a_large_photo_takes_no_logits_of_its_size():
    """64 x 56 px resized to 1200 x 1600: 38 MB of logits, of which a strip exists at a time."""
    model, _ = predictor()
    metas = dict(img_shape=(64, 56), pad_shape=(64, 56), ori_shape=(1200, 1600))
    with torch.profiler.profile(profile_memory=True) as profile:
        predictions([model], metas, n=1)
    largest = max(e.cpu_memory_usage for e in profile.events())
    assert 2 << 20 < largest <= 8 * 1200 * 1600 + 4096  # the labels


def test_a_whole_model_trains_and_predicts_as_mmsegs():
    theirs = segmentor("FPN", "FPNHead")
    ours = segmentor("fpn_neck.FPN", "fpn_neck.FPNHead")
    assert isinstance(ours.neck, fpn_neck.FPN) and not isinstance(theirs.neck, fpn_neck.FPN)
    theirs.init_weights()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images, (samples, _) = torch.randn(2, 3, 72, 56), truth(72, 56)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (ours, theirs)]
    first = None
    for step in range(3):  # the losses of step 2 and 3 also prove the gradients
        found = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            torch.manual_seed(step)
            losses = model.train().loss(images, samples)
            optimizer.zero_grad()
            losses["decode.loss_ce"].backward()
            optimizer.step()
            found.append({k: v.item() for k, v in losses.items()})
        assert list(found[0]) == list(found[1])
        assert found[0]["decode.loss_ce"] == pytest.approx(found[1]["decode.loss_ce"], abs=ATOL)
        assert found[0]["decode.acc_seg"] == pytest.approx(found[1]["decode.acc_seg"], abs=1e-3)
        first = first or found[0]["decode.loss_ce"]
    assert found[0]["decode.loss_ce"] != first  # the steps changed something

    metas = dict(ori_shape=(72, 56), img_shape=(72, 56), pad_shape=(72, 56))
    for sample in samples:
        sample.set_metainfo(metas)
    with torch.no_grad():
        a, b = (m.eval().predict(images, copy.deepcopy(samples)) for m in (ours, theirs))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.seg_logits.data, y.seg_logits.data, atol=1e-5, rtol=0)
        assert (x.pred_sem_seg.data == y.pred_sem_seg.data).float().mean() > 0.999


# --------------------------------------------------------------------------------- large photos


def large(model, tile, steps="test_step", **metas):
    """What a model makes of a photo of just above two tiles of 768 px."""
    small = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(3))
    photo = (255 * F.interpolate(small, size=(1001, 1203), mode="bilinear"))[0].byte()
    sample = SegDataSample(metainfo=dict(img_shape=(1001, 1203), ori_shape=(501, 700)) | metas)
    model.test_cfg.update(tile=tile)
    with torch.no_grad():
        return getattr(model, steps)({"inputs": [photo], "data_samples": [sample]})[0]


@pytest.fixture(scope="module")
def local():
    torch.manual_seed(3)
    model = segmentor("fpn_neck.FPN", "fpn_neck.FPNHead", type="fpn_neck.EncoderDecoder")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    model.data_preprocessor.channel_conversion = True
    return model.eval()


@pytest.mark.parametrize("metas", [{}, dict(padding_size=[2, 3, 4, 5])], ids=["plain", "padded"])
def test_tiles_give_the_whole_photos_labels(local, metas):
    tiled, whole = (large(local, t, **metas).pred_sem_seg.data for t in (768, None))
    assert tiled.shape == whole.shape == (1, 501, 700) and tiled.dtype == torch.int64
    assert whole.unique().numel() > 1
    assert (tiled == whole).float().mean() > 0.999


def test_tiles_of_one_logit_give_mmsegs_labels_and_probabilities():
    torch.manual_seed(3)
    parts = "fpn_neck.FPN", "fpn_neck.FPNHead"
    ours = segmentor(*parts, type="fpn_neck.EncoderDecoder", **ONE_LOGIT).eval()
    torch.nn.init.normal_(ours.decode_head.conv_seg.weight)
    theirs = segmentor(*parts, **ONE_LOGIT).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected = large(theirs, None).seg_logits.data
    ours.decode_head.threshold = float(expected.median())
    found = large(ours, 768)
    labels = found.pred_sem_seg.data
    assert labels.dtype == torch.int64 and labels.shape == expected.shape == (1, 501, 700)
    assert 0.4 < labels.float().mean() < 0.6
    assert (labels == (expected > expected.median())).float().mean() > 0.999
    torch.testing.assert_close(found.seg_logits.data, expected, atol=5e-3, rtol=0)


def test_the_backbone_sees_no_more_than_a_tile(local):
    seen = []
    hook = local.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    large(local, 768, "val_step")
    tiles = list(seen)
    seen.clear()
    large(local, None, "val_step")
    hook.remove()
    assert len(tiles) > 1 and max(max(shape[2:]) for shape in tiles) < 800
    assert seen == [(1, 3, 1001, 1203)]


def test_what_tiles_are_not_for_is_seen_whole(local):
    logits = large(local, 768, flip=True, flip_direction="horizontal").seg_logits
    assert type(logits) is PixelData  # mmseg's own way
    stock, _ = predictor()
    assert large(stock, 768).pred_sem_seg.shape == (501, 700)  # mmseg's own head


def test_hooks_see_a_large_photo_whole(local):
    seen = []
    for part in (local, local.backbone):
        hook = part.register_forward_hook(lambda module, args, out: seen.append(module))
        large(local, 768)
        hook.remove()
    assert seen == [local, local.backbone]


def test_a_subclass_predicts_large_photos_too(local):
    def predict(self, inputs, data_samples=None):
        samples = super(kind, self).predict(inputs, data_samples)
        for sample in samples:
            sample.pred_sem_seg.data.fill_(LAST)
        return samples

    kind = type("Changed", (type(local),), {"predict": predict})
    model = copy.deepcopy(local)
    model.__class__ = kind
    assert (large(model, 768).pred_sem_seg.data == LAST).all()


@pytest.mark.parametrize("norm_cfg", [GN, {"type": "IN"}], ids=["GN", "IN"])
def test_a_neck_whose_norms_see_the_whole_map_takes_no_tiles(local, norm_cfg):
    model = copy.deepcopy(local)
    model.neck = MODELS.build(
        dict(type="fpn_neck.FPN", in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=norm_cfg)
    )
    tiled, whole = (large(model.eval(), tile).pred_sem_seg.data for tile in (768, None))
    assert whole.unique().numel() > 1 and (tiled == whole).all()


# ----------------------------------------------------------------------------------- the metric


def evaluate(pairs, classes=K, **options):
    metric = METRICS.build(dict(type="fpn_neck.OccurringIoUMetric", **options))
    metric.dataset_meta = {"classes": [f"class {i}" for i in range(classes)]}
    for prediction, label in pairs:
        sample = {
            "pred_sem_seg": {"data": torch.as_tensor(prediction)[None]},
            "gt_sem_seg": {"data": torch.as_tensor(label)[None]},
        }
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


def confusion(pairs, classes=K, ignore=255):
    """Pixels of every truth (row) and prediction (column)."""
    matrix = np.zeros((classes, classes), np.int64)
    for prediction, label in pairs:
        seen = label != ignore
        np.add.at(matrix, (label[seen], prediction[seen]), 1)
    return matrix


def reference(matrix, background=0):
    """mIoU over all labels seen anywhere, over those in the truth, the same without background."""
    hit, row, column = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = row + column - hit
    iou = [100 * h / u if u else None for h, u in zip(hit, union, strict=True)]
    anywhere = [x for x in iou if x is not None]
    occurring = [x for x, r in zip(iou, row, strict=True) if r]
    foreground = [x for i, x in enumerate(iou) if row[i] and i != background]
    means = [np.mean(x) if x else np.nan for x in (anywhere, occurring, foreground)]
    return [*means, len(occurring)]


NAMES = ["mIoU", "mIoU_occurring", "mIoU_foreground", "num_occurring"]
ROUNDING = 0.005 + 1e-6


def check(pairs, **options):
    found = evaluate(pairs, **options)
    ignore = options.get("ignore_index", 255)
    expected = reference(confusion(pairs, ignore=ignore), options.get("background", 0))
    for name, value in zip(NAMES, expected, strict=True):
        assert found[name] == pytest.approx(value, abs=ROUNDING, nan_ok=True), name
    return found


@pytest.mark.parametrize("background", [0, 2, 4])
@pytest.mark.parametrize("ignore_index", [255, 1])
def test_metric_against_a_confusion_matrix(background, ignore_index):
    rng = np.random.default_rng(0)
    pairs = []
    for size in [(7, 9), (12, 5), (1, 1), (30, 40)]:
        label = rng.integers(0, K - 1, size)  # label 4 is nowhere in the truth
        prediction = np.where(rng.random(size) < 0.6, label, rng.integers(0, K, size))
        label[0, 0] = 255 if ignore_index == 255 else ignore_index
        pairs.append((prediction, label))
    found = check(pairs, background=background, ignore_index=ignore_index)
    assert found["mIoU"] < found["mIoU_occurring"]  # label 4 was predicted, so mmseg counts it as 0


def test_a_label_that_was_only_predicted_is_not_counted():
    label = np.array([[0, 0, 1, 1]])
    prediction = np.array([[0, 0, 1, 3]])
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == 75.0 and found["num_occurring"] == 2
    assert found["mIoU_foreground"] == 50.0
    assert found["mIoU"] == 50.0  # (100 + 50 + 0) / 3


def test_a_label_that_was_missed_counts_as_zero():
    label, prediction = np.array([[0, 0, 1, 1]]), np.zeros((1, 4), int)
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == 25.0 and found["mIoU_foreground"] == 0.0


def test_what_is_predicted_under_ignored_pixels_counts_nowhere():
    label, prediction = np.array([[0, 1, 255, 255]]), np.array([[0, 1, 3, 1]])
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == found["mIoU"] == 100.0 and found["num_occurring"] == 2


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_nothing_to_average_is_not_a_number():
    label = np.zeros((2, 3), int)
    found = check([(label, label)])
    assert found["mIoU_occurring"] == 100.0 and np.isnan(found["mIoU_foreground"])
    found = evaluate([(label, np.full((2, 3), 255))])
    assert np.isnan(found["mIoU_occurring"]) and found["num_occurring"] == 0


def test_labels_that_occur_are_counted_over_all_photos():
    zeros, ones = np.zeros((2, 2), int), np.ones((2, 2), int)
    found = check([(zeros, zeros), (zeros, ones)])
    assert found["num_occurring"] == 2 and found["mIoU_occurring"] == 25.0


def test_mmsegs_own_numbers_stay():
    rng = np.random.default_rng(1)
    label, prediction = rng.integers(0, K, (2, 20, 20))
    found = evaluate([(prediction, label)], iou_metrics=["mIoU", "mDice"])
    matrix = confusion([(prediction, label)])
    assert found["aAcc"] == pytest.approx(100 * matrix.trace() / matrix.sum(), abs=ROUNDING)
    assert {"mIoU", "mAcc", "mDice", "mIoU_occurring"} <= set(found)


def test_format_only_writes_labels_and_measures_nothing(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    metric = METRICS.build(
        dict(type="fpn_neck.OccurringIoUMetric", format_only=True, output_dir=str(tmp_path))
    )
    metric.dataset_meta = {"classes": ["a", "b"]}
    labels = np.array([[0, 1], [1, 0]])
    metric.process(
        {}, [{"pred_sem_seg": {"data": torch.as_tensor(labels)[None]}, "img_path": "x/one.jpg"}]
    )
    assert metric.evaluate(1) == {}
    assert (np.asarray(Image.open(tmp_path / "one.png")) == labels).all()


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
