"""models.layers: convolution + norm + activation, the look-up tables and the initialisation."""

import copy
import math

import pytest
import torch
from torch import nn

from fpn_neck.models.layers import ACTS, NORMS, ConvNormAct, build_norm, init_convs


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (8, 8)])
def test_size_is_divided_by_the_stride_and_rounded_up(kernel_size, stride, size):
    block = ConvNormAct(3, 5, kernel_size, stride=stride)
    expected = tuple(math.ceil(s / stride) for s in size)
    assert block(torch.randn(2, 3, *size)).shape == (2, 5, *expected)


def test_order_is_convolution_norm_activation():
    block = ConvNormAct(3, 4, 3, norm_cfg={"type": "BN"}, act_cfg={"type": "ReLU"})
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    x = torch.randn(2, 3, 6, 5)
    expected = torch.relu(block.eval().bn(block.conv(x)))
    torch.testing.assert_close(block(x), expected, atol=0, rtol=0)


def test_bias_only_where_no_norm_follows():
    assert ConvNormAct(3, 4, 1).conv.bias is not None
    assert ConvNormAct(3, 4, 1, norm_cfg={"type": "BN"}).conv.bias is None


@pytest.mark.parametrize(
    ("norm_cfg", "name", "layer"),
    [
        ({"type": "BN"}, "bn", nn.BatchNorm2d),
        ({"type": "BN2d"}, "bn", nn.BatchNorm2d),
        ({"type": "SyncBN"}, "bn", nn.SyncBatchNorm),
        ({"type": "GN", "num_groups": 4}, "gn", nn.GroupNorm),
        ({"type": "IN"}, "in", nn.InstanceNorm2d),
    ],
    ids=lambda x: x["type"] if isinstance(x, dict) else None,
)
def test_norms_have_mmcvs_names_and_defaults(norm_cfg, name, layer):
    built_name, norm = build_norm(8, norm_cfg)
    assert (built_name, type(norm), norm.eps) == (name, layer, 1e-5)
    mmcv = pytest.importorskip("mmcv.cnn", reason="mmcv-lite is not installed")
    their_name, theirs = mmcv.build_norm_layer(norm_cfg, 8)
    assert (built_name, repr(norm)) == (their_name, repr(theirs))
    assert list(norm.state_dict()) == list(theirs.state_dict())


def test_group_norm_has_32_groups_by_default():
    assert build_norm(64, {"type": "GN"})[1].num_groups == 32


@pytest.mark.parametrize("requires_grad", [True, False])
def test_requires_grad_freezes_the_affine_parameters(requires_grad):
    _, norm = build_norm(8, {"type": "BN", "requires_grad": requires_grad})
    assert [p.requires_grad for p in norm.parameters()] == [requires_grad] * 2


def test_options_reach_the_layers():
    block = ConvNormAct(
        4,
        4,
        3,
        conv_cfg={"type": "Conv2d", "groups": 2, "padding_mode": "reflect"},
        norm_cfg={"type": "BN", "eps": 1e-3, "momentum": 0.01},
        act_cfg={"type": "LeakyReLU", "negative_slope": 0.3},
    )
    assert (block.conv.groups, block.conv.padding_mode) == (2, "reflect")
    assert (block.bn.eps, block.bn.momentum) == (1e-3, 0.01)
    assert block.activate.negative_slope == 0.3


def test_a_class_may_stand_in_place_of_a_name():
    class Shifted(nn.Conv2d):
        pass

    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    block = ConvNormAct(
        3,
        4,
        3,
        conv_cfg={"type": Shifted},
        norm_cfg={"type": nn.GroupNorm, "num_groups": 2},
        act_cfg={"type": Half},
    )
    assert type(block.conv) is Shifted
    norms = [m for m in block.children() if isinstance(m, nn.GroupNorm)]
    assert [n.num_groups for n in norms] == [2]
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(block(x), norms[0](block.conv(x)) / 2, atol=0, rtol=0)


@pytest.mark.parametrize("name", ACTS)
def test_every_activation_differentiates_and_matches_its_out_of_place_form(name):
    block = ConvNormAct(3, 4, 1, act_cfg={"type": name})
    x = torch.randn(2, 3, 5, 5)
    y = block(x)
    plain = ACTS[name]()
    torch.testing.assert_close(y, plain(block.conv(x)), atol=1e-6, rtol=0)
    (grad,) = torch.autograd.grad(y.square().sum(), block.conv.weight)
    expected = torch.autograd.grad(plain(block.conv(x)).square().sum(), block.conv.weight)[0]
    torch.testing.assert_close(grad, expected, atol=1e-4, rtol=1e-5)  # sums of 50 terms


@pytest.mark.parametrize("act", [None, {"type": "ReLU"}])
@pytest.mark.parametrize("norm", [None, {"type": "GN", "num_groups": 2}])
def test_the_input_is_not_written_to(norm, act):
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    ConvNormAct(3, 4, 3, norm_cfg=norm, act_cfg=act)(x)
    assert torch.equal(x, before)


def test_configurations_are_read_only():
    conv, norm = {"type": "Conv2d", "groups": 1}, {"type": "GN", "num_groups": 2}
    act, init = {"type": "ReLU"}, {"type": "Kaiming", "layer": "Conv2d", "bias": 1.0}
    before = copy.deepcopy((conv, norm, act, init))
    init_convs(ConvNormAct(2, 2, 3, conv_cfg=conv, norm_cfg=norm, act_cfg=act), init)
    assert (conv, norm, act, init) == before


# Initialisation ---------------------------------------------------------------------------------


def wide_conv():
    return nn.Conv2d(64, 128, 3)


@pytest.mark.parametrize(
    ("init_cfg", "std"),
    [
        ({"type": "Xavier"}, math.sqrt(2 / (9 * (64 + 128)))),
        ({"type": "Xavier", "distribution": "uniform"}, math.sqrt(2 / (9 * (64 + 128)))),
        ({"type": "Xavier", "gain": 3}, 3 * math.sqrt(2 / (9 * (64 + 128)))),
        ({"type": "Kaiming"}, math.sqrt(2 / (9 * 128))),
        ({"type": "Kaiming", "mode": "fan_in"}, math.sqrt(2 / (9 * 64))),
        ({"type": "Kaiming", "nonlinearity": "leaky_relu"}, math.sqrt(2 / (9 * 128))),
        ({"type": "Kaiming", "a": 1, "nonlinearity": "leaky_relu"}, math.sqrt(1 / (9 * 128))),
        ({"type": "Caffe2Xavier"}, math.sqrt(1 / (9 * 64))),
        ({"type": "Normal"}, 1.0),
        ({"type": "Normal", "std": 0.01}, 0.01),
    ],
    ids=str,
)
def test_initialisation_has_the_textbook_spread(init_cfg, std):
    conv = wide_conv()
    init_convs(conv, init_cfg)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.02)  # of 73 728 draws
    assert abs(conv.weight.mean().item()) < 0.02 * std
    assert not conv.bias.any()


def test_normal_has_a_mean_and_biases_their_own_value():
    conv = wide_conv()
    init_convs(conv, {"type": "Normal", "mean": 5, "std": 0.1, "bias": -2})
    assert conv.weight.mean().item() == pytest.approx(5, abs=0.01)
    assert conv.bias.eq(-2).all()


def test_only_convolutions_are_initialised():
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2))
    before = copy.deepcopy(module)
    init_convs(module, {"type": "Normal", "std": 9, "bias": 9})
    assert not torch.equal(module[0].weight, before[0].weight)
    assert torch.equal(module[1].weight, before[1].weight)
    assert torch.equal(module[2].weight, before[2].weight)


def test_no_initialisation_draws_no_random_numbers():
    conv, state = wide_conv(), torch.get_rng_state()
    before = conv.weight.clone()
    init_convs(conv, None)
    assert torch.equal(conv.weight, before) and torch.equal(torch.get_rng_state(), state)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "names", "layers"),
    [
        (TypeError, "conv_cfg='Conv2d'", {"conv_cfg": "Conv2d"}),
        (TypeError, "conv_cfg=.*'type'", {"conv_cfg": {"groups": 2}}),
        (ValueError, "conv_cfg.*'XConv'.*Conv2d", {"conv_cfg": {"type": "XConv"}}),
        (
            TypeError,
            "conv_cfg: dilation=2: the block sets it",
            {"conv_cfg": {"type": "Conv2d", "dilation": 2}},
        ),
        (TypeError, "conv_cfg: bias=False: the", {"conv_cfg": {"type": "Conv2d", "bias": False}}),
        (TypeError, "conv_cfg.*shape", {"conv_cfg": {"type": "Conv2d", "shape": 3}}),
        (ValueError, "conv_cfg.*groups", {"conv_cfg": {"type": "Conv2d", "groups": 3}}),
        (TypeError, "norm_cfg='BN'", {"norm_cfg": "BN"}),
        (TypeError, "norm_cfg=", {"norm_cfg": {}}),
        (ValueError, "norm_cfg.*'XN'.*GN", {"norm_cfg": {"type": "XN"}}),
        (TypeError, "norm_cfg.*groups", {"norm_cfg": {"type": "BN", "groups": 2}}),
        (ValueError, "norm_cfg.*num_groups=32.*8", {"norm_cfg": {"type": "GN"}}),
        (TypeError, "act_cfg=", {"act_cfg": ["ReLU"]}),
        (ValueError, "act_cfg.*'relu'.*ReLU", {"act_cfg": {"type": "relu"}}),
        (TypeError, "act_cfg.*slope", {"act_cfg": {"type": "ReLU", "slope": 1}}),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_named(error, names, layers):
    with pytest.raises(error, match=names):
        ConvNormAct(4, 8, 3, **layers)


@pytest.mark.parametrize(
    ("error", "names", "init_cfg"),
    [
        (TypeError, "init_cfg='Xavier'", "Xavier"),
        (TypeError, "init_cfg=", [{"type": "Xavier"}]),
        (ValueError, "init_cfg.*'XInit'.*Xavier", {"type": "XInit"}),
        (TypeError, "init_cfg.*std", {"type": "Xavier", "std": 1}),
        (ValueError, "init_cfg.*distribution='flat'", {"type": "Xavier", "distribution": "flat"}),
        (ValueError, "init_cfg.*layer='Linear'", {"type": "Normal", "layer": "Linear"}),
    ],
    ids=str,
)
def test_a_wrong_initialisation_is_named(error, names, init_cfg):
    with pytest.raises(error, match=names):
        init_convs(wide_conv(), init_cfg)


@pytest.mark.parametrize("layer", sorted({layer for _, layer in NORMS.values()}, key=str), ids=str)
def test_a_norm_class_gets_the_name_that_mmcv_gives_it(layer):
    """So that checkpoints load: 'bn', 'gn', 'in', as for the names of the classes."""
    mmcv = pytest.importorskip("mmcv.cnn", reason="mmcv-lite is not installed")
    norm_cfg = {"type": layer} | ({"num_groups": 2} if layer is nn.GroupNorm else {})
    assert build_norm(8, norm_cfg)[0] == mmcv.build_norm_layer(norm_cfg, 8)[0]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"num_groups": 2, "affin": False}),
        ((TypeError, ValueError), {"num_groups": 0}),
        ((TypeError, ValueError), {"num_groups": -2}),
        (TypeError, {"num_groups": "2"}),
    ],
    ids=str,
)
def test_a_wrong_group_norm_is_named(error, options):
    with pytest.raises(error, match="norm_cfg"):
        ConvNormAct(4, 8, 3, norm_cfg={"type": "GN"} | options)


@pytest.mark.parametrize("option", [{"nonlinearity": "relux"}, {"mode": "fan"}], ids=str)
def test_a_wrong_kaiming_option_is_named(option):
    with pytest.raises(ValueError, match="init_cfg"):
        init_convs(wide_conv(), {"type": "Kaiming"} | option)
