"""models.torchvision_backbone, against torchvision's own backbones and in its detectors."""

import re
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision", reason="torchvision is not installed")

from torchvision.models import detection, resnet18, resnet50  # noqa: E402
from torchvision.models.detection.backbone_utils import (  # noqa: E402
    BackboneWithFPN,
    resnet_fpn_backbone,
)
from torchvision.ops import FrozenBatchNorm2d  # noqa: E402
from torchvision.ops.feature_pyramid_network import (  # noqa: E402
    LastLevelMaxPool,
    LastLevelP6P7,
)

from fpn_neck import FPN, fast  # noqa: E402
from fpn_neck.models.torchvision_backbone import P2_TO_P6, P3_TO_P7, FPNBackbone  # noqa: E402

TOLERANCE = 1e-5  # of losses and predictions, relative and absolute
P6_FROM_C5 = P3_TO_P7 | {"add_extra_convs": "on_input"}
# our arguments, torchvision's layers, torchvision's extra levels (of the last channels)
FAMILIES = {
    "pool": (P2_TO_P6, [1, 2, 3, 4], lambda c5: LastLevelMaxPool()),
    "p6p7-on-p5": (P3_TO_P7, [2, 3, 4], lambda c5: LastLevelP6P7(256, 256)),
    "p6p7-on-c5": (P6_FROM_C5, [2, 3, 4], lambda c5: LastLevelP6P7(c5, 256)),
}
SMALL = dict(num_classes=4, min_size=64, max_size=96)
FEW = dict(rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=30, box_batch_size_per_image=32)
DETECTORS = {
    "FasterRCNN": (partial(detection.FasterRCNN, **SMALL, **FEW), P2_TO_P6),
    "MaskRCNN": (partial(detection.MaskRCNN, **SMALL, **FEW), P2_TO_P6),
    "RetinaNet": (partial(detection.RetinaNet, **SMALL), P3_TO_P7),
    "FCOS": (partial(detection.FCOS, **SMALL), P3_TO_P7),
}
TINY_TIMM = {
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 8,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 4, 8),
    },
    "tf_efficientnet_lite0": {},
}


def rename(prefix, levels):
    """torchvision's names -> ours, of a pyramid with this many levels before the extra ones."""

    def convert(state):
        ours = {}
        for name, tensor in state.items():
            name = re.sub(r"fpn\.inner_blocks\.(\d)\.", r"fpn.lateral_convs.\1.", name)
            name = re.sub(r"fpn\.layer_blocks\.(\d)\.", r"fpn.fpn_convs.\1.", name)
            name = re.sub(r"(_convs\.\d)\.0\.", r"\1.conv.", name)
            name = re.sub(r"(_convs\.\d)\.1\.", r"\1.bn.", name)
            for i in (6, 7):
                extra = f"{prefix}fpn.fpn_convs.{levels + i - 6}.conv"
                name = name.replace(f"{prefix}fpn.extra_blocks.p{i}", extra)
            ours[name] = tensor
        return ours

    return convert


def calm(module):
    """Keep maps and gradients of order 1 through an untrained ResNet: rounding grows with them."""
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(4.0)
    return module


class Levels(FPNBackbone):
    """A list of one image batch -> list of levels, as `assert_parity` wants it."""

    def forward(self, inputs):
        return list(super().forward(*inputs).values())


class Maps(nn.Module):
    """Maps of strides 4 to 32 and of a few channels."""

    def __init__(self, out_channels=(4, 6, 8, 10), given=None, wrap=list):
        super().__init__()
        self.out_channels, self.wrap = out_channels, wrap
        given = out_channels if given is None else given
        strides = [4 << i for i in range(len(given))]
        self.convs = nn.ModuleList(
            nn.Conv2d(3, c, 3, s, 1) for c, s in zip(given, strides, strict=True)
        )

    def forward(self, x):
        return self.wrap(conv(x) for conv in self.convs)


# Parity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (67, 101), (1, 1)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_resnet_fpn_backbone(assert_parity, family, size):
    fpn, layers, extra = FAMILIES[family]
    theirs = calm(
        resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            trainable_layers=5,
            returned_layers=layers,
            extra_blocks=extra(512),
        )
    )
    images = torch.randn(2, 3, *size)
    ours = Levels(resnet18(norm_layer=FrozenBatchNorm2d), neck=fpn)
    assert FPNBackbone.forward(ours, images).keys() == theirs(images).keys()
    assert_parity(
        ours,
        theirs,
        [images],
        convert=rename("", len(layers)),
        call=lambda module, inputs: list(module(*inputs).values()),
    )


def test_equals_a_backbone_with_batch_norm_in_body_and_pyramid(assert_parity):
    """As in fasterrcnn_resnet50_fpn_v2; training mode, so that statistics are compared too."""
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    theirs = BackboneWithFPN(
        resnet18(), layers, [64, 128, 256, 512], 256, norm_layer=nn.BatchNorm2d
    )
    assert_parity(
        Levels(resnet18(), neck={"norm_cfg": {"type": "BN"}}),
        theirs,
        [torch.randn(2, 3, 97, 70)],
        convert=rename("", 4),
        call=lambda module, inputs: list(module(*inputs).values()),
    )


@pytest.mark.parametrize(
    ("builder", "fpn"),
    [
        ("fasterrcnn_resnet50_fpn", P2_TO_P6),
        ("fasterrcnn_resnet50_fpn_v2", P2_TO_P6 | {"norm_cfg": {"type": "BN"}}),
        ("maskrcnn_resnet50_fpn", P2_TO_P6),
        ("maskrcnn_resnet50_fpn_v2", P2_TO_P6 | {"norm_cfg": {"type": "BN"}}),
        ("retinanet_resnet50_fpn", P3_TO_P7),
        ("retinanet_resnet50_fpn_v2", P6_FROM_C5),
        ("fcos_resnet50_fpn", P3_TO_P7),
    ],
)
def test_holds_the_tensors_of_every_stock_resnet50_detector(builder, fpn):
    with torch.device("meta"):
        stock = getattr(detection, builder)(weights=None, weights_backbone=None).backbone
        ours = FPNBackbone(resnet50(), neck=fpn)
    theirs = rename("", 3 if "start_level" in fpn else 4)(stock.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.items()
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_has_the_losses_and_predictions_of_the_stock_one(name, shake):
    detector, fpn = DETECTORS[name]
    layers = [1, 2, 3, 4] if fpn is P2_TO_P6 else [2, 3, 4]
    extra = LastLevelMaxPool() if fpn is P2_TO_P6 else LastLevelP6P7(256, 256)
    theirs = detector(
        resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            trainable_layers=5,
            returned_layers=layers,
            extra_blocks=extra,
        )
    )
    shake(theirs)
    ours = detector(FPNBackbone(resnet18(norm_layer=FrozenBatchNorm2d), neck=fpn))
    ours.load_state_dict(rename("backbone.", len(layers))(theirs.state_dict()), strict=True)
    images, targets = batch()
    losses, predictions = [], []
    for model in (ours, theirs):
        torch.manual_seed(1)  # of the samplers
        # Boxes grow the rounding of Winograd's 3x3 to 4e-4 px.
        with fast.enable(False):
            losses.append(model.train()(images, targets))
            with torch.no_grad():
                predictions.append(model.eval()(images))
    assert losses[0].keys() == losses[1].keys()
    assert all(v > 1e-4 for v in losses[1].values()), "nothing to compare"
    assert sum(len(p["boxes"]) for p in predictions[1]) > 0, "nothing to compare"
    torch.testing.assert_close(losses[0], losses[1], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(predictions[0], predictions[1], atol=TOLERANCE, rtol=TOLERANCE)


# In the detectors -------------------------------------------------------------------------------


def batch():
    """Two images of odd sizes; the second holds nothing."""
    images = [torch.rand(3, 67, 91), torch.rand(3, 75, 61)]
    masks = torch.zeros(2, 67, 91, dtype=torch.uint8)
    masks[0, 5:45, 3:40] = 1
    masks[1, 20:31, 50:61] = 1
    targets = [
        {
            "boxes": torch.tensor([[3.0, 5.0, 40.0, 45.0], [50.0, 20.0, 61.0, 31.0]]),
            "labels": torch.tensor([1, 3]),
            "masks": masks,
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 75, 61, dtype=torch.uint8),
        },
    ]
    return images, targets


def pairs():
    """Every detector on a module of our own; every other backbone in one of either family."""
    backbones = [(Maps, None), (resnet18, None), *TINY_TIMM.items()]
    for backbone, options in backbones:
        for name in DETECTORS if backbone is Maps else ("FasterRCNN", "FCOS"):
            label = backbone if isinstance(backbone, str) else backbone.__name__
            yield pytest.param(name, backbone, options, id=f"{name}-{label.split('_')[0]}")


@pytest.mark.parametrize(("name", "backbone", "options"), pairs())
def test_detectors_train_and_predict(name, backbone, options):
    if isinstance(backbone, str):
        pytest.importorskip("timm")
    else:
        backbone = backbone()
    detector, fpn = DETECTORS[name]
    pyramid = FPNBackbone(backbone, backbone_options=options, neck=fpn | {"out_channels": 32})
    model = detector(pyramid)
    images, targets = batch()

    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values()), losses
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in grads.values())
    assert any(n.startswith("backbone.body.") and g.any() for n, g in grads.items())
    for n, _ in model.backbone.fpn.named_parameters():
        assert f"backbone.fpn.{n}" in grads, n
        one_pixel = name == "FCOS" and n.startswith("fpn_convs.4.")  # constant under FCOS's norms
        assert one_pixel or grads[f"backbone.fpn.{n}"].any(), n

    with torch.no_grad():
        predictions = model.eval()(images)
    for image, prediction in zip(images, predictions, strict=True):
        boxes, (h, w) = prediction["boxes"], image.shape[-2:]
        assert boxes.shape == (len(prediction["scores"]), 4)
        assert boxes.isfinite().all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([w, h, w, h])).all()
        assert ((prediction["labels"] >= 0) & (prediction["labels"] < 4)).all()
        if name == "MaskRCNN":
            assert prediction["masks"].shape == (len(boxes), 1, h, w)


def test_all_scenes_empty_still_gives_finite_losses():
    images, targets = batch()
    model = DETECTORS["MaskRCNN"][0](FPNBackbone(Maps()))
    losses = model(images[1:], targets[1:])
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())


# The module itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fpn", "names"),
    [
        ({}, ["0", "1", "2", "3", "pool"]),
        (P2_TO_P6, ["0", "1", "2", "3", "pool"]),
        (P3_TO_P7, ["0", "1", "2", "p6", "p7"]),
        ({"num_outs": None}, ["0", "1", "2", "3"]),
        ({"start_level": 1}, ["0", "1", "2", "pool", "pool2"]),
        ({"add_extra_convs": True, "num_outs": 6}, ["0", "1", "2", "3", "p6", "p7"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(61, 97), (128, 64), (1, 3)], ids=str)
def test_levels_are_named_and_sized(fpn, names, size):
    before = dict(fpn)
    pyramid = FPNBackbone(Maps(), neck=fpn | {"out_channels": 16})
    assert (pyramid.level_names, pyramid.out_channels, fpn) == (names, 16, before)
    levels = pyramid(torch.randn(2, 3, *size))
    assert isinstance(levels, OrderedDict)
    assert list(levels) == names
    first = 8 if "start_level" in fpn else 4
    for i, level in enumerate(levels.values()):
        stride = first << i
        assert level.shape == (2, 16, *(-(-pixels // stride) for pixels in size))


@pytest.mark.parametrize(
    "wrap", [list, tuple, lambda maps: OrderedDict((str(i), m) for i, m in enumerate(maps))]
)
def test_a_module_may_give_a_sequence_or_a_mapping(wrap):
    images = torch.randn(1, 3, 50, 70)
    pyramid = FPNBackbone(Maps(wrap=wrap))
    expected = pyramid.fpn([conv(images) for conv in pyramid.body.convs])
    torch.testing.assert_close(tuple(pyramid(images).values()), expected, atol=0, rtol=0)


def test_a_given_resnet_keeps_its_weights_norms_and_freezing():
    resnet = resnet18(norm_layer=FrozenBatchNorm2d)
    resnet.layer1.requires_grad_(False)
    weights = {k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    body = FPNBackbone(resnet).body
    assert body.state_dict().keys() == weights.keys()
    assert all(v.equal(weights[k]) for k, v in body.state_dict().items())
    assert not any(p.requires_grad for p in body.layer1.parameters())
    assert all(p.requires_grad for p in body.layer2.parameters())


def test_backbone_options_reach_timm():
    pytest.importorskip("timm")
    pyramid = FPNBackbone("resnet18", backbone_options={"frozen_levels": 1, "norm_eval": True})
    assert not pyramid.body.net.conv1.weight.requires_grad
    assert not pyramid.train().body.net.bn1.training
    assert pyramid.body.net.layer2[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(backbone=3), TypeError, ["int", "timm", "out_channels"]),
        (dict(backbone=nn.ReLU()), TypeError, ["ReLU", "out_channels"]),
        (dict(backbone=nn.Conv2d(3, 8, 3)), TypeError, ["Conv2d", "one number per map"]),
        (dict(backbone=resnet18), TypeError, ["function", "ResNet"]),
        (dict(backbone=Maps([])), ValueError, ["backbone.out_channels=[]", "one or more"]),
        (dict(backbone=Maps([4, 0], [4, 1])), ValueError, ["backbone.out_channels[1]=0"]),
        (
            dict(backbone=Maps(), backbone_options={"norm_eval": True}),
            TypeError,
            ["norm_eval", "Maps", "on the module itself"],
        ),
        (dict(backbone=Maps(), neck="p6p7"), TypeError, ["'p6p7'", "dict"]),
        (dict(backbone=Maps(), neck={"in_channels": [4]}), TypeError, ["in_channels", "declares"]),
        (dict(backbone=Maps(), neck={"num_outs": 3}), ValueError, ["num_outs=3", "4 levels"]),
        (dict(backbone=Maps(), neck={"end_level": 2}), ValueError, ["num_outs=5", "end_level=-1"]),
        (dict(backbone=Maps(), neck={"out_channels": 0}), ValueError, ["out_channels=0"]),
    ],
)
def test_refuses(arguments, error, words):
    with pytest.raises(error) as caught:
        FPNBackbone(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_the_old_name_of_neck_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="fpn= is now neck=") as caught:
        model = FPNBackbone(Maps(), fpn={"out_channels": 16})
    assert caught[0].filename == __file__
    assert (model.out_channels, model.fpn.num_outs) == (16, 5)


def test_refuses_an_unknown_timm_model():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="resnet18000.*near"):
        FPNBackbone("resnet18000")


@pytest.mark.parametrize(
    ("given", "words"), [((4, 6, 8), ["3 maps", "declares 4"]), ((4, 6, 8, 9), ["level 3", "9"])]
)
def test_refuses_other_maps_than_declared(given, words):
    pyramid = FPNBackbone(Maps(given=given))
    with pytest.raises(ValueError) as caught:
        pyramid(torch.randn(1, 3, 64, 64))
    for word in words:
        assert word in str(caught.value)


def test_the_constants_are_arguments_of_fpn():
    for constant in (P2_TO_P6, P3_TO_P7):
        assert FPN([4, 6, 8, 10], 16, **constant).num_outs == 5
