"""weights.key_maps and conversion: real modules of every library give equal output after it.

detectron2 has no plain wheel. It is replaced by modules with the attribute names and the forward
pass that its own files document (modeling/backbone/{fpn,resnet}.py, meta_arch/semantic_seg.py).
The article is replaced by smp's decoder with a 3x3 in the top-down path, under assumed names.
"""

import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fpn_neck import FPN, SegHead
from fpn_neck.weights.conversion import convert
from fpn_neck.weights.conversion_notes import notes
from fpn_neck.weights.key_maps import LIBRARIES, Layout

TOLERANCE = 1e-5  # largest absolute difference in float32 (whole models: float64), none relative
CHANNELS, WIDTH, CLASSES = [8, 16, 24, 40], 32, 5
GN = {"type": "GN", "num_groups": 32}
BN = {"type": "BN"}


def maps(channels=CHANNELS, width=64):
    return [torch.randn(2, c, width >> i, width >> i) for i, c in enumerate(channels)]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def converted(state_dict, source, target):
    """The weights, after a check that every key was mapped or ignored."""
    result = convert(state_dict, source, target, norm="GN")
    assert not (result.unmapped or result.missing), (result.unmapped, result.missing)
    assert set(result.mapped) | set(result.ignored) == set(state_dict)
    assert set(result.mapped.values()) == set(result.state_dict)
    return result.state_dict


def advice(state_dict, source, target):
    result = convert(state_dict, source, target, norm="GN")
    return "\n".join(notes(result, source, target))


def prefixed(prefix, module):
    return {prefix + k: v for k, v in module.state_dict().items()}


def part(state_dict, prefix):
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}


def move(source_module, source_prefix, source, target_module, target_prefix, target, shake):
    """Shake one module, convert its weights, load them strictly into the other; both in eval."""
    shake(source_module)
    state = converted(prefixed(source_prefix, source_module), source, target)
    assert all(k.startswith(target_prefix) for k in state)
    target_module.load_state_dict(part(state, target_prefix), strict=True)
    source_module.eval(), target_module.eval()


def group_norm(channels):
    return nn.GroupNorm(32, channels)


# detectron2's and the article's modules ----------------------------------------------------------


class Conv2d(nn.Conv2d):
    """detectron2.layers.Conv2d: the norm is an attribute of the convolution."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, bias=norm is None, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class P6P7(nn.Module):
    def __init__(self, in_channels, width):
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, width, 3, 2, 1)
        self.p7 = nn.Conv2d(width, width, 3, 2, 1)


class Detectron2FPN(nn.Module):
    def __init__(self, channels, width, norm=None, extra=""):
        super().__init__()
        self.levels = range(6 - len(channels), 6)
        for level, c in zip(self.levels, channels, strict=True):
            norms = [norm(width) if norm else None for _ in range(2)]
            self.add_module(f"fpn_lateral{level}", Conv2d(c, width, 1, norm=norms[0]))
            output = Conv2d(width, width, 3, padding=1, norm=norms[1])
            self.add_module(f"fpn_output{level}", output)
        self.extra = extra
        if extra:
            self.top_block = P6P7(channels[-1] if extra == "res5" else width, width)

    def forward(self, inputs):
        above, outs = None, []
        for level, x in reversed(list(zip(self.levels, inputs, strict=True))):
            x = getattr(self, f"fpn_lateral{level}")(x)
            above = x if above is None else x + F.interpolate(above, scale_factor=2)
            outs.insert(0, getattr(self, f"fpn_output{level}")(above))
        if self.extra:
            p6 = self.top_block.p6(inputs[-1] if self.extra == "res5" else outs[-1])
            outs += [p6, self.top_block.p7(F.relu(p6))]
        return outs


class Detectron2Head(nn.Module):
    def __init__(self, width, channels, classes, norm):
        super().__init__()
        for level in range(2, 6):
            layers = []
            for i in range(max(1, level - 2)):
                conv = Conv2d(
                    channels if i else width,
                    *(channels, 3),
                    padding=1,
                    norm=norm(channels) if norm else None,
                    activation=F.relu,
                )
                layers.append(conv)
                if level > 2:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.add_module(f"p{level}", nn.Sequential(*layers))
        self.predictor = Conv2d(channels, classes, 1)

    def forward(self, pyramid):
        return self.predictor(sum(getattr(self, f"p{i + 2}")(x) for i, x in enumerate(pyramid)))


def as_detectron2(resnet):
    """torchvision's ResNet under detectron2's attribute names; the same function."""
    for stage in range(1, 5):
        for block in getattr(resnet, f"layer{stage}"):
            convs = [n for n, _ in block.named_children() if n.startswith("conv")]
            for name in convs:
                getattr(block, name).norm = getattr(block, f"bn{name[4:]}")
            if block.downsample is not None:
                block.shortcut = block.downsample[0]
                block.shortcut.norm = block.downsample[1]
    resnet.conv1.norm = resnet.bn1
    names = {f"layer{s}": f"res{s + 1}" for s in range(1, 5)} | {"conv1": "stem.conv1"}
    state = {}
    for key, value in resnet.state_dict().items():
        first, _, rest = key.partition(".")
        if first in names and not any(p.startswith(("bn", "downsample")) for p in key.split(".")):
            state[f"backbone.bottom_up.{names[first]}.{rest}"] = value
    return state


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip("segmentation_models_pytorch", reason="smp is not installed")


def article_decoder(channels, width, segmentation):
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNBlock, FPNDecoder

    class Block(FPNBlock):
        def __init__(self, width, skip):
            super().__init__(width, skip)
            self.conv = nn.Conv2d(width, width, 3, padding=1)

        def forward(self, x, skip):
            return self.conv(super().forward(x, skip))

    decoder = FPNDecoder(
        [3, *channels], 4, pyramid_channels=width, segmentation_channels=segmentation
    )
    for level, c in zip((2, 3, 4), channels, strict=False):
        setattr(decoder, f"p{level}", Block(width, c))
    return decoder


# The neck ---------------------------------------------------------------------------------------


def mmdet_fpn(*args, **options):
    pytest.importorskip("mmdet")
    from mmdet.models import FPN as MMDetFPN

    return MMDetFPN(*args, **options)


NORMS = {
    "no norm": (None, None),
    "BN": (nn.BatchNorm2d, BN),
    "GN": (lambda c: nn.GroupNorm(32, c), GN),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("levels", [4, 3])
@pytest.mark.parametrize("direction", ["from", "to"])
@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_the_neck_of_mmdet_moves(library, direction, levels, norm, shake):
    theirs_norm, ours_norm = NORMS[norm]
    channels = CHANNELS[-levels:]
    if library == "torchvision":
        ops = pytest.importorskip("torchvision.ops")
        theirs = ops.FeaturePyramidNetwork(channels, WIDTH, norm_layer=theirs_norm)
        prefix = "backbone.fpn."
    else:
        theirs, prefix = Detectron2FPN(channels, WIDTH, theirs_norm), "backbone."
    ours = mmdet_fpn(channels, WIDTH, levels, norm_cfg=ours_norm)
    sides = (theirs, prefix, library), (ours, "neck.", "mmdet")
    move(*(sides[0] + sides[1] if direction == "from" else sides[1] + sides[0]), shake)
    inputs = maps(channels)
    names = dict(zip("abcd", inputs, strict=False))
    outs = theirs(names).values() if library == "torchvision" else theirs(inputs)
    assert_close(ours(inputs), list(outs))


@pytest.mark.parametrize("source", ["on_input", "on_output"])
@pytest.mark.parametrize("direction", ["from", "to"])
@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_p6_and_p7_move_with_the_options_that_the_notes_name(library, direction, source, shake):
    """RetinaNet's pyramid: C3..C5, P6 from C5 or P5, ReLU before P7."""
    channels = CHANNELS[1:]
    start = channels[-1] if source == "on_input" else WIDTH
    if library == "torchvision":
        fpn = pytest.importorskip("torchvision.ops.feature_pyramid_network")
        theirs = fpn.FeaturePyramidNetwork(channels, WIDTH, fpn.LastLevelP6P7(start, WIDTH))
        prefix = "backbone.fpn."
    else:
        theirs = Detectron2FPN(channels, WIDTH, extra="res5" if source == "on_input" else "p5")
        prefix = "backbone."
    options = {"add_extra_convs": source, "relu_before_extra_convs": True}
    ours = mmdet_fpn(CHANNELS, WIDTH, 5, start_level=1, **options)
    sides = (theirs, prefix, library), (ours, "neck.", "mmdet")
    first, second = sides if direction == "from" else sides[::-1]
    move(*first, *second, shake)
    inputs = maps()
    names = dict(zip("abc", inputs[1:], strict=True))
    outs = theirs(names).values() if library == "torchvision" else theirs(inputs[1:])
    assert_close(ours(inputs), list(outs))

    text = advice(prefixed(first[1], first[0]), first[2], second[2])
    assert f"add_extra_convs='{source}'" in text
    assert "relu_before_extra_convs=True" in text
    ours.relu_before_extra_convs = False  # the note is needed: without it P7 differs
    assert (ours(inputs)[-1] - list(outs)[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("target", ["mmdet", "mmseg"])
def test_a_norm_that_p6_and_p7_lack_is_missing(target):
    """mmdet norms P6 and P7 too; detectron2 never does (FPN.NORM='GN')."""
    theirs = Detectron2FPN(CHANNELS[1:], WIDTH, group_norm, extra="p5")
    result = convert(prefixed("backbone.", theirs), "detectron2", target, norm="GN")
    norms = {f"neck.fpn_convs.{i}.gn.{part}" for i in (3, 4) for part in ("weight", "bias")}
    assert set(result.missing) == norms
    assert result.missing["neck.fpn_convs.3.gn.bias"] == (
        f"{target}'s P6 and P7 have the pyramid's norm, detectron2's have no norm"
    )
    assert set(result.unmapped) == {f"backbone.top_block.p{n}.bias" for n in (6, 7)}
    ours = mmdet_fpn(CHANNELS, WIDTH, 5, start_level=1, add_extra_convs="on_output", norm_cfg=GN)
    found = ours.load_state_dict(part(result.state_dict, "neck."), strict=False)
    assert {f"neck.{name}" for name in found.missing_keys} == norms
    assert not found.unexpected_keys


def test_what_detectron2s_weights_do_not_show_is_a_note():
    theirs = prefixed("backbone.", Detectron2FPN(CHANNELS, WIDTH))
    assert "FPN.FUSE_TYPE='sum'" in advice(theirs, "detectron2", "mmdet")


class LayerNorm(nn.Module):
    """detectron2's 'LN': every pixel over its channels."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


@pytest.mark.parametrize("target", ["mmdet", "torchvision"])
@pytest.mark.parametrize("part", ["neck", "backbone"])
def test_detectron2s_layer_norm_does_not_pass_as_group_norm(part, target):
    """The weights look the same, so that the user has to say which."""
    if part == "neck":
        states = [
            prefixed("backbone.", Detectron2FPN(CHANNELS, WIDTH, norm))
            for norm in (LayerNorm, group_norm)
        ]
    else:
        torchvision = pytest.importorskip("torchvision")
        resnet = torchvision.models.resnet18
        states = [as_detectron2(resnet(norm_layer=norm)) for norm in (LayerNorm, group_norm)]
    assert states[0].keys() == states[1].keys()
    norms = {name for name in states[0] if ".norm." in name}
    for state in states:
        unsaid = convert(state, "detectron2", target)
        assert norms == set(unsaid.unmapped) and not unsaid.missing
        assert "--norm GN" in next(iter(unsaid.unmapped.values()))
        layer = convert(state, "detectron2", target, norm="LN")
        assert norms == set(layer.unmapped)
        assert "normalizes every pixel" in next(iter(layer.unmapped.values()))
        assert not convert(state, "detectron2", target, norm="GN").unmapped


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="norm='BN': expected one of 'GN', 'LN'"):
        convert(
            prefixed("backbone.", Detectron2FPN(CHANNELS, WIDTH)), "detectron2", "mmdet", norm="BN"
        )


def test_torchvision_names_from_before_0_14_are_read(shake):
    ops = pytest.importorskip("torchvision.ops")
    theirs, ours = ops.FeaturePyramidNetwork(CHANNELS, WIDTH), FPN(CHANNELS, WIDTH)
    shake(theirs)
    old = {}
    for key, value in theirs.state_dict().items():
        block, i, _, kind = key.split(".")
        old[f"backbone.fpn.{block}.{i}.{kind}"] = value
    assert "backbone.fpn.inner_blocks.3.weight" in old
    ours.load_state_dict(part(converted(old, "torchvision", "mmseg"), "neck."), strict=True)
    inputs = maps()
    assert_close(ours(inputs), list(theirs(dict(zip("abcd", inputs, strict=True))).values()))


def test_a_neck_saved_by_itself_is_read(shake):
    ops = pytest.importorskip("torchvision.ops")
    theirs, ours = ops.FeaturePyramidNetwork(CHANNELS, WIDTH), FPN(CHANNELS, WIDTH)
    state = converted(ours.state_dict(), "mmdet", "torchvision")
    theirs.load_state_dict(part(state, "backbone.fpn."), strict=True)
    state = converted(theirs.state_dict(), "torchvision", "mmdet")
    assert list(part(state, "neck.")) == list(ours.state_dict())


# The backbone -----------------------------------------------------------------------------------


def mmdet_resnet(depth):
    pytest.importorskip("mmdet")
    from mmdet.models import ResNet

    return ResNet(depth)


@pytest.mark.parametrize(
    ("name", "frozen"), [("resnet18", False), ("resnet50", True)], ids=["R18-BN", "R50-FrozenBN"]
)
def test_resnet_fpn_backbone_becomes_mmdets_and_comes_back(name, frozen, shake):
    utils = pytest.importorskip("torchvision.models.detection.backbone_utils")
    from torchvision.ops import FrozenBatchNorm2d

    layer = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    theirs = utils.resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=layer)
    widths = [64, 128, 256, 512] if name == "resnet18" else [256, 512, 1024, 2048]
    backbone, neck = mmdet_resnet(int(name[6:])), mmdet_fpn(widths, 256, 5)
    ours = nn.ModuleDict({"backbone": backbone, "neck": neck})
    shake(theirs)
    state = converted(prefixed("backbone.", theirs), "torchvision", "mmdet")
    ours.load_state_dict(state, strict=True)
    theirs.double().eval(), ours.double().eval()  # a frozen norm rounds differently
    photo = torch.randn(1, 3, 64, 96).double()
    assert_close(neck(backbone(photo)), list(theirs(photo).values()))

    shake(ours)
    state = converted(ours.state_dict(), "mmdet", "torchvision")
    theirs.load_state_dict(part(state, "backbone."), strict=True)
    assert_close(list(theirs(photo).values()), neck(backbone(photo)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2s_resnet_is_torchvisions(name, shake):
    torchvision = pytest.importorskip("torchvision")
    theirs, ours = (getattr(torchvision.models, name)() for _ in range(2))
    ours.fc = theirs.fc = nn.Identity()
    shake(theirs)
    named = as_detectron2(theirs)
    assert "backbone.bottom_up.res2.0.conv1.norm.running_mean" in named
    assert "backbone.bottom_up.stem.conv1.norm.weight" in named
    state = converted(named, "detectron2", "torchvision")
    ours.load_state_dict(part(state, "backbone.body."), strict=True)
    photo = torch.randn(1, 3, 64, 64).double()
    assert_close([ours.double().eval()(photo)], [theirs.double().eval()(photo)])
    assert set(converted(state, "torchvision", "detectron2")) == set(named)


def test_a_resnet_with_group_norm_moves(shake):
    """detectron2's ``*_gn`` models, mmdet's ``norm_cfg=GN`` and torchvision's ``norm_layer``."""
    torchvision = pytest.importorskip("torchvision")
    pytest.importorskip("mmdet")
    from mmdet.models import ResNet

    theirs, again = (torchvision.models.resnet50(norm_layer=group_norm) for _ in range(2))
    theirs.fc = again.fc = nn.Identity()
    shake(theirs)
    named = as_detectron2(theirs)
    assert "backbone.bottom_up.stem.conv1.norm.weight" in named
    ours = ResNet(50, norm_cfg=GN)
    state = converted(named, "detectron2", "mmdet")
    assert {"backbone.gn1.weight", "backbone.layer1.0.downsample.1.weight"} <= set(state)
    ours.load_state_dict(part(state, "backbone."), strict=True)
    again.load_state_dict(part(converted(state, "mmdet", "torchvision"), "backbone.body."))
    photo = torch.randn(1, 3, 64, 64).double()
    for module in (theirs, ours, again):
        module.double().eval()
    expected = theirs(photo)
    assert_close([ours(photo)[-1].mean((2, 3)), again(photo)], [expected, expected])
    assert set(converted(state, "mmdet", "detectron2")) == set(named)
    assert "norm_cfg=dict(type='GN', num_groups=32)" in advice(named, "detectron2", "mmdet")
    assert "ConvWS" in advice(state, "mmdet", "detectron2")
    refused = convert(named, "detectron2", "smp", norm="GN")
    reason = refused.unmapped["backbone.bottom_up.res2.0.shortcut.norm.weight"]
    assert reason == "its ResNets have BatchNorm, not GroupNorm"


def test_a_batch_norm_without_statistics_is_missing_them(shake):
    torchvision = pytest.importorskip("torchvision")
    named = as_detectron2(torchvision.models.resnet18())
    del named["backbone.bottom_up.stem.conv1.norm.running_mean"]
    result = convert(named, "detectron2", "mmdet")
    assert "backbone.bn1.running_mean" in result.missing


@pytest.mark.parametrize("prefix", ["model.", "module.net."])
def test_a_wrappers_prefix_is_taken_off(prefix):
    state = prefixed("backbone.", Detectron2FPN(CHANNELS, WIDTH, lambda c: nn.BatchNorm2d(c)))
    expected = convert(state, "detectron2", "mmdet")
    wrapped = {prefix + name: value for name, value in state.items()}
    assert identical(convert(wrapped, "detectron2", "mmdet").state_dict, expected.state_dict)
    found = convert(wrapped | {"criterion.weight": torch.ones(2)}, "detectron2", "mmdet")
    assert identical(found.state_dict, expected.state_dict)
    assert found.unmapped == {"criterion.weight": "unknown"} | expected.unmapped


def test_weights_of_a_student_and_its_teacher_are_refused():
    state = prefixed("backbone.", Detectron2FPN(CHANNELS, WIDTH, lambda c: nn.BatchNorm2d(c)))
    both = {who + name: value for who in ("teacher.", "student.") for name, value in state.items()}
    with pytest.raises(ValueError, match="under 'student.' and 'teacher.'"):
        convert(both, "detectron2", "mmdet")


def test_the_name_of_a_part_is_no_wrappers_prefix():
    """Else weights of another library would be taken for a bare ResNet's."""
    with pytest.raises(ValueError, match="under torchvision's names"):
        convert({"backbone.conv1.weight": torch.ones(2)}, "torchvision", "mmdet")


# The segmentation head --------------------------------------------------------------------------


def mmseg_head(norm=GN, **options):
    pytest.importorskip("mmseg")
    from mmseg.models.decode_heads import FPNHead

    return FPNHead(
        in_channels=[WIDTH] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        num_classes=CLASSES,
        norm_cfg=norm,
        **options,
    )


@pytest.mark.parametrize("norm", ["BN", "GN"])
@pytest.mark.parametrize("direction", ["from", "to"])
def test_mmsegs_head_and_detectron2s(direction, norm, shake):
    theirs_norm, ours_norm = NORMS[norm]
    theirs, ours = Detectron2Head(WIDTH, 64, CLASSES, theirs_norm), mmseg_head(ours_norm)
    sides = (theirs, "sem_seg_head.", "detectron2"), (ours, "decode_head.", "mmseg")
    move(*(sides[0] + sides[1] if direction == "from" else sides[1] + sides[0]), shake)
    pyramid = maps([WIDTH] * 4)
    assert_close([ours(pyramid)], [theirs(pyramid)])


@pytest.mark.parametrize("norm", ["BN", "GN"])
@pytest.mark.parametrize("target", ["mmseg", "detectron2"])
def test_mmdets_panoptic_head(target, norm, shake):
    pytest.importorskip("mmdet")
    from mmdet.models.seg_heads import PanopticFPNHead

    theirs_norm, ours_norm = NORMS[norm]
    source = PanopticFPNHead(2, CLASSES - 1, WIDTH, 64, norm_cfg=ours_norm)
    if target == "mmseg":
        to = SegHead(WIDTH, CLASSES, channels=64, norm_cfg=ours_norm), "decode_head."
    else:
        to = Detectron2Head(WIDTH, 64, CLASSES, theirs_norm), "sem_seg_head."
    move(source, "semantic_head.", "mmdet", *to, target, shake)
    pyramid = maps([WIDTH] * 4)
    assert_close([to[0](pyramid)], [source(pyramid)["seg_preds"]])
    back = converted(prefixed(to[1], to[0]), target, "mmdet")
    assert identical(back, prefixed("semantic_head.", source))


# smp and the article ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("merge", "mode"), [("add", "nearest"), ("cat", "nearest"), ("add", "bilinear")]
)
def test_smps_fpn_becomes_ours_and_comes_back(merge, mode, smp, shake):
    """All of smp.FPN: encoder, decoder, head; the pyramid has no 3x3."""
    interpolation = {} if mode == "nearest" else {"decoder_interpolation": mode}
    if not interpolation.keys() <= inspect.signature(smp.FPN).parameters.keys():
        pytest.skip("this smp upsamples by nearest neighbours only")
    theirs = smp.FPN(
        "resnet18",
        encoder_weights=None,
        decoder_pyramid_channels=WIDTH,
        decoder_segmentation_channels=64,
        decoder_merge_policy=merge,
        **interpolation,
        classes=CLASSES,
        upsampling=1,
    )
    options = {"channels": 64, "norm_cfg": GN, "align_corners": True, "merge": merge}
    backbone, neck = mmdet_resnet(18), FPN([64, 128, 256, 512], WIDTH, smooth="none")
    neck.upsample_cfg = {"mode": mode}
    head = SegHead(WIDTH, CLASSES, **options)
    ours = nn.ModuleDict({"backbone": backbone, "neck": neck, "decode_head": head})
    shake(theirs)
    named = theirs.state_dict()
    state = converted(named, "smp", "mmseg")
    ours.load_state_dict(state, strict=True)
    theirs.double().eval(), ours.double().eval()
    photo = torch.randn(1, 3, 64, 96).double()
    assert_close([head(neck(backbone(photo)))], [theirs(photo)])
    assert identical(converted(state, "mmseg", "smp"), named)
    text = advice(named, "smp", "mmseg")
    assert "smooth='none'" in text and "upsample_cfg" in text
    assert "align_corners=True" in text and "dilation" in text


def test_the_articles_decoder_becomes_ours_and_comes_back(smp, shake):
    decoder = article_decoder(CHANNELS, WIDTH, 64)
    classifier = nn.Conv2d(64, CLASSES, 1)
    theirs = nn.ModuleDict({"decoder": decoder, "segmentation_head": nn.Sequential(classifier)})
    neck = FPN(CHANNELS, WIDTH, smooth="chained")
    head = SegHead(WIDTH, CLASSES, channels=64, norm_cfg=GN, align_corners=True)
    ours = nn.ModuleDict({"neck": neck, "decode_head": head})
    shake(theirs)
    state = converted(theirs.state_dict(), "article", "mmseg")
    ours.load_state_dict(state, strict=True)
    theirs.eval(), ours.eval()
    inputs = maps()
    assert_close([head(neck(inputs))], [classifier(decoder(inputs))])
    assert identical(converted(state, "mmseg", "article"), theirs.state_dict())


# There and back ---------------------------------------------------------------------------------


def identical(a, b):
    assert set(a) == set(b)
    return all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def weights(library, layout=None, parts=("backbone", "neck", "head"), extra=()):
    """Small tensors, all different, under a library's names: a ResNet of one block a stage with
    batch norm, a neck without norm, a head with group norm."""
    state = {}
    layout = layout or Layout(4, LIBRARIES[library].smooth or "merged")
    for role, name in LIBRARIES[library].modules(layout).items():
        stage, kind = role.split("."), role.rpartition(".")[2]
        is_norm = kind == "gn" or kind.startswith("bn") or role.endswith("downsample.1")
        if (
            stage[0] not in parts
            or (stage[0] == "backbone" and stage[2:3] > ["0"])
            or (stage[0] == "backbone" and kind.startswith("gn"))
            or (stage[0] == "neck" and is_norm)
            or (stage[0] == "head" and kind == "bn")
            or (stage[1].startswith("extra") and stage[1] not in extra)
        ):
            continue
        names = ["weight", "bias"]
        if stage[0] == "backbone":
            statistics = ["running_mean", "running_var", "num_batches_tracked"]
            names = names + statistics if is_norm else ["weight"]
        elif stage[0] == "head" and kind == "conv" and stage[1] != "classifier":
            names = ["weight"]
        for n in names:
            value = torch.full((2,) if is_norm else (2, 2, 1, 1), float(len(state)))
            state[f"{name}.{n}"] = value[0].long() if n == "num_batches_tracked" else value
    return state


PAIRS = [
    (a, b)
    for a in ("mmdet", "mmseg", "torchvision", "detectron2")
    for b in ("mmdet", "mmseg", "torchvision", "detectron2")
    if a != b
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("levels", [4, 3, 2, 1])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_is_where_it_was(source, target, levels, dtype):
    head = set() if "torchvision" in (source, target) else {"head"}
    parts = {"backbone", "neck"} | head
    extra = ("extra6", "extra7") if levels == 3 else ()
    state = weights(source, Layout(levels), parts, extra=extra)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    assert any(v.dtype == torch.int64 for v in state.values())
    assert any(v.dtype == dtype for v in state.values())
    there = converted(state, source, target)
    assert len(there) == len(state)
    assert identical(converted(there, target, source), state)


@pytest.mark.parametrize("source", ["smp", "article"])
@pytest.mark.parametrize("target", ["mmseg"])
def test_there_and_back_with_another_place_of_the_3x3(source, target):
    state = weights(source)
    assert identical(converted(converted(state, source, target), target, source), state)


@pytest.mark.parametrize("smooth", ["merged", "chained", "none"])
def test_between_mmdet_and_mmseg_every_smoothing_and_backbone_moves(smooth):
    neck = prefixed("neck.", FPN(CHANNELS, WIDTH, smooth=smooth, norm_cfg=BN))
    state = neck | {"backbone.stages.0.blocks.1.norm.weight": torch.ones(2)}
    assert identical(converted(state, "mmseg", "mmdet"), state)


# What can't be equal ----------------------------------------------------------------------------


def findings(result):
    lost = result.unmapped | result.missing
    return "\n".join(f"{k}: {v}" for k, v in lost.items())


def mm(**options):
    return prefixed("neck.", FPN(CHANNELS, WIDTH, **options))


def seg_head(**options):
    return prefixed("decode_head.", SegHead(WIDTH, CLASSES, channels=64, **options))


REFUSED = {
    "3x3 merged to none": (lambda: mm(), "mmdet", "smp", "3x3 nowhere"),
    "3x3 merged to chained": (lambda: mm(), "mmdet", "article", "3x3 inside"),
    "3x3 chained to merged": (
        lambda: mm(smooth="chained"),
        "mmdet",
        "torchvision",
        "layer_blocks.3.0.weight: the target has its 3x3 on every merged map",
    ),
    "3x3 none to merged": (
        lambda: weights("smp", parts=("neck",)),
        "smp",
        "detectron2",
        "fpn_output2.weight: the target has its 3x3 on every merged map, outside the top-down "
        "path, the source nowhere",
    ),
    "3x3 chained to none": (lambda: weights("article"), "article", "smp", "p2.conv.weight: the"),
    "norm": (lambda: mm(smooth="none", norm_cfg=BN), "mmdet", "smp", "its pyramid has no norm"),
    "three levels": (
        lambda: prefixed("neck.", FPN(CHANNELS[1:], WIDTH, smooth="none")),
        "mmdet",
        "smp",
        "decoder.p2.skip_conv.weight: these mmdet weights have none",
    ),
    "BN head": (lambda: seg_head(norm_cfg=BN), "mmseg", "smp", "GroupNorm, not BatchNorm"),
    "head without norm": (lambda: seg_head(norm_cfg=None), "mmseg", "smp", "no bias"),
    "no such head": (lambda: seg_head(), "mmseg", "torchvision", "no segmentation head"),
    "cat": (lambda: seg_head(merge="cat"), "mmseg", "detectron2", "adds levels"),
    "align_corners": (
        lambda: weights("smp", parts=("head",)),
        "smp",
        "mmdet",
        "align_corners=False, the source's True",
    ),
    "P6 alone": (
        lambda: mm(num_outs=5, add_extra_convs="on_output"),
        "mmdet",
        "torchvision",
        "extra_blocks.p7.weight: these mmdet weights have none",
    ),
    "P8": (
        lambda: mm(num_outs=7, add_extra_convs="on_output"),
        "mmdet",
        "detectron2",
        "neck.fpn_convs.6.conv.weight: detectron2 has no counterpart",
    ),
    "P6 with a norm": (
        lambda: mm(num_outs=6, add_extra_convs="on_output", norm_cfg=BN),
        "mmdet",
        "torchvision",
        "its P6 and P7 have no norm",
    ),
    "P6 to smp": (
        lambda: mm(num_outs=5, add_extra_convs="on_output"),
        "mmdet",
        "smp",
        "no convolutional P6",
    ),
    "another backbone": (
        lambda: mm() | {"backbone.patch_embed.weight": torch.ones(1)},
        "mmdet",
        "torchvision",
        "backbone.patch_embed.weight: torchvision has no counterpart",
    ),
    "an encoder that is no ResNet": (
        lambda: weights("smp", parts=("neck",)) | {"encoder._conv_stem.weight": torch.ones(1)},
        "smp",
        "mmseg",
        "encoder._conv_stem.weight: unknown",
    ),
    "a 3x3 is missing": (
        lambda: {k: v for k, v in weights("detectron2").items() if "fpn_output3" not in k},
        "detectron2",
        "mmdet",
        "neck.fpn_convs.1.conv.weight: these detectron2 weights have none",
    ),
    "a statistic is missing": (
        lambda: {
            k: v for k, v in weights("mmdet").items() if k != "backbone.layer2.0.bn1.running_var"
        },
        "mmdet",
        "detectron2",
        "res3.0.conv1.norm.running_var: these mmdet weights have none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_equal_is_said_with_the_reason(case):
    build, source, target, reason = REFUSED[case]
    assert reason in findings(convert(build(), source, target))


def test_the_rest_is_mapped_all_the_same():
    result = convert(mm(), "mmdet", "smp")
    assert set(result.state_dict) == set(weights("smp", parts=("neck",)))
    assert len(result.unmapped) == 8


def test_detection_heads_are_ignored_by_name():
    others = {
        "torchvision": ["rpn.head.conv.0.0.weight", "roi_heads.box_head.fc6.weight", "head.x.w"],
        "detectron2": ["proposal_generator.rpn_head.conv.weight", "roi_heads.x.w", "pixel_mean"],
        "mmdet": ["rpn_head.rpn_conv.weight", "roi_head.bbox_head.fc_cls.weight", "bbox_head.a.w"],
        "mmseg": ["auxiliary_head.conv_seg.weight"],
        "smp": ["classification_head.3.weight"],
    }
    for library, names in others.items():
        state = weights(library, parts=("neck",)) | {n: torch.ones(1) for n in names}
        result = convert(state, library, "mmseg" if library == "mmdet" else "mmdet")
        assert result.ignored == names
        assert not result.unmapped


@pytest.mark.parametrize(
    ("state", "source", "target", "message"),
    [
        (lambda: mm(), "mmdet", "mmdet", "nothing to convert"),
        (lambda: mm(), "smp", "mmdet", "under smp's names.*'neck.lateral_convs.0.conv.weight'"),
        (lambda: {}, "smp", "mmdet", "under smp's names"),
        (lambda: mm(laterals=False), "mmdet", "torchvision", "laterals=False"),
        (
            lambda: {k: v for k, v in mm().items() if not re.search("fpn_convs.[12]", k)},
            "mmdet",
            "torchvision",
            "4 lateral_convs and 2 fpn_convs",
        ),
    ],
    ids=["same", "another library", "empty", "laterals=False", "not a pyramid"],
)
def test_weights_of_nothing_are_refused(state, source, target, message):
    with pytest.raises(ValueError, match=message):
        convert(state(), source, target)


@pytest.mark.parametrize("name", ["scale_heads.0.0.conv.weight", "conv_seg.weight"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_weight_that_is_not_a_convolutions_is_named(name, shape):
    head = SegHead(WIDTH, CLASSES, channels=WIDTH, strides=[4], norm_cfg=GN)
    weights = prefixed("decode_head.", head) | {f"decode_head.{name}": torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"decode_head.{name} of shape .*expected the weight of a"):
        convert(weights, "mmseg", "mmdet")


def test_nothing_of_the_callers_changes():
    state = weights("smp")
    before = {k: v.clone() for k, v in state.items()}
    convert(state, "smp", "mmseg")
    assert identical(state, before)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("layout", [Layout(n, s) for n in (1, 3, 4) for s in ("merged", "chained")])
def test_no_two_roles_share_a_name_but_the_two_norms(library, layout):
    names = {}
    for role, name in LIBRARIES[library].modules(layout).items():
        names.setdefault(name, []).append(role)
    for roles in names.values():
        assert len({re.sub(r"(\.1|[bg]n\d?)$", "", r).rstrip(".") for r in roles}) == 1
        assert roles == sorted(roles)  # .bn first: what conversion.py relies on
