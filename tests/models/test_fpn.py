"""fpn_neck.FPN: parity with mmdet's, mmseg's and torchvision's neck, its own switches, its edges.

Parity is to 1e-5 in float32, outputs and gradients, see `conftest._assert_parity`.
"""

import copy
import io
import math
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from helpers.devices import peak_memory
from torch import nn

from fpn_neck import FPN, fast
from fpn_neck.models.layers import init_convs

CHANNELS, WIDTH = [4, 6, 10, 12], 8
ODD = [(29, 37), (15, 19), (8, 10), (4, 5)]  # of a 115 x 147 image
EVEN = [(32, 40), (16, 20), (8, 10), (4, 5)]
GN = {"type": "GN", "num_groups": 4}


def maps(sizes=ODD, channels=CHANNELS, batch=2, dtype=torch.float32):
    return [torch.randn(batch, c, *s, dtype=dtype) for c, s in zip(channels, sizes, strict=True)]


# Parity -----------------------------------------------------------------------------------------

RELU, LEAKY = {"type": "ReLU"}, {"type": "LeakyReLU", "negative_slope": 0.1}
EXTRA_LEVELS = {
    "paper": {},
    "P6 by pooling": {"num_outs": 5},
    "P6 and P7 by pooling": {"num_outs": 6},
    "on_input": {"num_outs": 6, "add_extra_convs": "on_input"},
    "on_lateral": {"num_outs": 6, "add_extra_convs": "on_lateral"},
    "on_output": {"num_outs": 6, "add_extra_convs": "on_output"},
    "ReLU before P7": {
        "num_outs": 6,
        "add_extra_convs": "on_output",
        "relu_before_extra_convs": True,
    },
    "extra convs asked for, none needed": {"add_extra_convs": "on_lateral"},
    "extra convs with norm": {"num_outs": 5, "add_extra_convs": "on_lateral", "norm_cfg": GN},
}
LAYERS = {
    "BN": {"norm_cfg": {"type": "BN"}},
    "BN frozen": {"norm_cfg": {"type": "BN", "requires_grad": False}},
    "GN": {"norm_cfg": GN},
    "IN": {"norm_cfg": {"type": "IN", "affine": True}},
    "BN, no norm on lateral": {"norm_cfg": {"type": "BN", "eps": 1e-3}, "no_norm_on_lateral": True},
    "GN, no norm on lateral": {"norm_cfg": GN, "no_norm_on_lateral": True},
    "ReLU": {"act_cfg": RELU},
    "BN and LeakyReLU": {"norm_cfg": {"type": "BN"}, "act_cfg": LEAKY},
    "conv_cfg": {"conv_cfg": {"type": "Conv2d", "padding_mode": "reflect"}},
    "bilinear": {"upsample_cfg": {"mode": "bilinear"}},
    "bilinear, corners": {"upsample_cfg": {"mode": "bilinear", "align_corners": True}},
}
# mmseg counts end_level exclusively and takes add_extra_convs=True for 'on_output'.
MMDET_LEVELS = {
    "True": {"num_outs": 6, "add_extra_convs": True},
    "RetinaNet": {"num_outs": 5, "start_level": 1, "add_extra_convs": "on_input"},
    "end_level": {"num_outs": 3, "end_level": 2},
    "start_level and end_level": {"num_outs": 2, "start_level": 1, "end_level": 2},
    "end_level is the last": {"num_outs": 5, "end_level": 3},
}


def by_name(table):
    return pytest.mark.parametrize("options", table.values(), ids=table.keys())


def framework_fpn(name):
    """mmdet's or mmseg's FPN class; the test is skipped where it is not installed."""
    reason = f"{name} is not installed: pip install fpn_neck[mm]"
    pytest.importorskip("torchvision", reason=reason)
    return pytest.importorskip(f"{name}.models.necks", reason=reason).FPN


def pair(theirs_class, options):
    """Ours and theirs with the same arguments."""
    options = {"out_channels": WIDTH, "num_outs": 4} | options
    ours, theirs = FPN(CHANNELS, **options), theirs_class(CHANNELS, **options)
    return ours, theirs


@by_name(EXTRA_LEVELS | LAYERS | MMDET_LEVELS)
def test_mmdet_parity(options, assert_parity):
    ours, theirs = pair(framework_fpn("mmdet"), options)
    assert_parity(ours, theirs, maps())


@pytest.mark.filterwarnings("ignore:When align_corners=True")
@by_name(EXTRA_LEVELS | LAYERS)
def test_mmseg_parity(options, assert_parity):
    ours, theirs = pair(framework_fpn("mmseg"), options)
    assert_parity(ours, theirs, maps())


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
def test_framework_parity_in_eval_mode(framework, assert_parity):
    ours, theirs = pair(framework_fpn(framework), {"norm_cfg": {"type": "BN"}})
    assert_parity(ours.eval(), theirs.eval(), maps())


PUBLISHED = {  # forms of the arguments in mmdet's published configs
    "scale factor": {"upsample_cfg": {"mode": "nearest", "scale_factor": 2}},
    "Caffe2Xavier": {"init_cfg": {"type": "Caffe2Xavier", "layer": "Conv2d"}},
    "no init": {"init_cfg": None},
}


@by_name(EXTRA_LEVELS | LAYERS | MMDET_LEVELS | PUBLISHED)
def test_attributes_are_mmdets(options):
    ours, theirs = pair(framework_fpn("mmdet"), options)
    names = [n for n in vars(theirs) if n not in vars(torch.nn.Module())] + ["is_init"]
    names.remove("_is_init")
    assert {"add_extra_convs", "backbone_end_level", "fp16_enabled", "init_cfg"} <= set(names)
    assert {n: getattr(ours, n) for n in names} == {n: getattr(theirs, n) for n in names}


def test_init_weights_draws_once_as_mmengine_does():
    fpn = FPN(CHANNELS, WIDTH, init_cfg={"type": "Normal", "layer": "Conv2d", "std": 3.0})
    for parameter in fpn.parameters():
        nn.init.constant_(parameter, 7.0)
    fpn.init_weights()
    assert fpn.is_init
    for conv in (*fpn.lateral_convs, *fpn.fpn_convs):
        assert (conv.conv.bias == 0).all()
        assert conv.conv.weight.std().item() == pytest.approx(3.0, rel=0.5)
    drawn = fpn.lateral_convs[0].conv.weight.clone()
    with pytest.warns(UserWarning, match="init_weights was called more than once"):
        fpn.init_weights()
    assert (fpn.lateral_convs[0].conv.weight == drawn).all()


def test_init_weights_of_a_frameworks_model_reaches_the_neck():
    mmengine = pytest.importorskip("mmengine.model")
    parent = mmengine.Sequential(FPN(CHANNELS, WIDTH))
    nn.init.constant_(parent[0].fpn_convs[0].conv.weight, 7.0)
    parent.init_weights()
    assert parent[0].is_init and (parent[0].fpn_convs[0].conv.weight != 7).all()


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
def test_framework_parity_with_a_scale_factor(framework, assert_parity):
    options = {"upsample_cfg": {"mode": "nearest", "scale_factor": 2}}
    assert_parity(*pair(framework_fpn(framework), options), maps(EVEN))


@pytest.mark.parametrize("act", ["ReLU6", "PReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh"])
def test_mmdet_parity_of_activations(act, assert_parity):
    options = {"act_cfg": {"type": act}, "num_outs": 6, "add_extra_convs": "on_lateral"}
    assert_parity(*pair(framework_fpn("mmdet"), options), maps())


@pytest.mark.parametrize("act", ["Swish", "HSwish"])
def test_mmdet_parity_of_mmcv_activations(act, assert_parity):
    assert_parity(*pair(framework_fpn("mmdet"), {"act_cfg": {"type": act}}), maps())


@by_name(EXTRA_LEVELS | LAYERS | MMDET_LEVELS)
def test_mmdet_state_dict_loads_both_ways(options):
    ours, theirs = pair(framework_fpn("mmdet"), options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_mmseg_end_level_is_one_above_ours(assert_parity):
    theirs = framework_fpn("mmseg")(CHANNELS, WIDTH, 2, start_level=1, end_level=3)
    ours = FPN(CHANNELS, WIDTH, 2, start_level=1, end_level=2)
    assert_parity(ours, theirs, maps())


@pytest.mark.parametrize(
    "init_cfg",
    [
        {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"},
        {"type": "Xavier", "layer": "Conv2d", "gain": 2.0, "bias": 0.5},
        {"type": "Kaiming", "layer": "Conv2d"},
        {"type": "Kaiming", "layer": "Conv2d", "a": 1, "distribution": "uniform"},
        {"type": "Kaiming", "layer": "Conv2d", "mode": "fan_in", "nonlinearity": "leaky_relu"},
        {"type": "Caffe2Xavier", "layer": "Conv2d"},
        {"type": "Normal", "layer": "Conv2d", "std": 0.01},
        {"type": "Normal", "layer": "Conv2d", "mean": 1, "bias": -2},
    ],
    ids=str,
)
def test_initialisation_draws_what_mmdet_draws(init_cfg):
    ours, theirs = pair(framework_fpn("mmdet"), {"init_cfg": init_cfg})
    torch.manual_seed(3)
    theirs.init_weights()
    torch.manual_seed(3)
    init_convs(ours, init_cfg)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=0, rtol=0)


def from_torchvision(tensors):
    """Their names -> ours; a block is [conv, norm]."""

    def ours(name):
        level = name.split(".")[1]
        name = name.replace(f".{level}.1.", f".{level}.bn.")
        if name.startswith("extra_blocks"):
            return name.replace("extra_blocks.p6", "fpn_convs.4.conv").replace(
                "extra_blocks.p7", "fpn_convs.5.conv"
            )
        name = name.replace(f".{level}.0.", f".{level}.conv.")
        return name.replace("inner_blocks", "lateral_convs").replace("layer_blocks", "fpn_convs")

    return {ours(name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["odd", "even"])
@pytest.mark.parametrize(
    ("extra", "options"),
    [
        (None, {}),
        ("batch norm", {"norm_cfg": {"type": "BN"}}),
        ("pool", {"num_outs": 5}),
        ("p6p7 on C5", {"num_outs": 6, "add_extra_convs": "on_input"}),
        ("p6p7 on P5", {"num_outs": 6, "add_extra_convs": "on_output"}),
    ],
    ids=lambda x: str(x) if not isinstance(x, dict) else "",
)
def test_torchvision_parity(extra, options, sizes, assert_parity):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    blocks = pytest.importorskip("torchvision.ops.feature_pyramid_network")
    p6_on = WIDTH if extra == "p6p7 on P5" else CHANNELS[-1]
    extra_blocks = None
    if extra == "pool":
        extra_blocks = blocks.LastLevelMaxPool()
    elif extra and extra.startswith("p6p7"):
        extra_blocks = blocks.LastLevelP6P7(p6_on, WIDTH)
        options = options | {"relu_before_extra_convs": True}  # always so in torchvision
    theirs = ops.FeaturePyramidNetwork(
        CHANNELS, WIDTH, extra_blocks, nn.BatchNorm2d if extra == "batch norm" else None
    )

    def call(module, inputs):
        return list(module(OrderedDict((f"C{i}", x) for i, x in enumerate(inputs, 2))).values())

    ours = FPN(CHANNELS, WIDTH, **options)
    assert_parity(ours, theirs, maps(sizes), convert=from_torchvision, call=call)


# The paper's ablations and the place of the 3x3 -------------------------------------------------


def reference(fpn, inputs):
    """Lin et al., section 3, written once more: level by level, without our modules."""

    def conv(block, x):
        return F.conv2d(x, block.conv.weight, block.conv.bias, padding=block.conv.padding)

    lateral = [conv(block, x) for block, x in zip(fpn.lateral_convs, inputs, strict=True)]
    above, merged = None, [None] * len(inputs)
    for i in reversed(range(len(inputs))):
        x = lateral[i]
        if above is not None:
            x = x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
            if fpn.smooth == "chained":
                x = conv(fpn.fpn_convs[i], x)
        above = merged[i] = x
    if fpn.smooth == "merged":
        merged = [conv(fpn.fpn_convs[i], x) for i, x in enumerate(merged)]
    return merged


@pytest.mark.parametrize(("smooth", "convolutions"), [("merged", 4), ("chained", 3), ("none", 0)])
def test_smooth_stands_where_it_says(smooth, convolutions, shake):
    fpn = FPN(CHANNELS, WIDTH, smooth=smooth)
    shake(fpn)
    inputs = maps()
    assert len(fpn.fpn_convs) == convolutions
    for ours, expected in zip(fpn(inputs), reference(fpn, inputs), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("smooth", ["merged", "chained", "none"])
@pytest.mark.parametrize("source", [False, "on_input", "on_lateral", "on_output"])
def test_extra_levels_follow_every_smoothing(smooth, source):
    fpn = FPN(CHANNELS, WIDTH, 6, add_extra_convs=source, smooth=smooth)
    inputs = maps()
    *levels, p6, p7 = fpn(inputs)
    assert [tuple(x.shape) for x in levels] == [(2, WIDTH, *size) for size in ODD]
    assert (p6.shape, p7.shape) == ((2, WIDTH, 2, 3), (2, WIDTH, 1, 2))
    lateral = fpn.lateral_convs[-1](inputs[-1])
    start = {"on_input": inputs[-1], "on_lateral": lateral, "on_output": levels[-1]}
    if source:
        expected_p6 = fpn.fpn_convs[-2](start[source])
        expected_p7 = fpn.fpn_convs[-1](expected_p6)
    else:
        expected_p6 = levels[-1][:, :, ::2, ::2]
        expected_p7 = expected_p6[:, :, ::2, ::2]
    torch.testing.assert_close(p6, expected_p6, atol=0, rtol=0)
    torch.testing.assert_close(p7, expected_p7, atol=0, rtol=0)


def input_grads(fpn, level):
    """Which inputs output `level` depends on."""
    inputs = [x.requires_grad_() for x in maps()]
    fpn(inputs)[level].square().sum().backward()
    return [x.grad is not None and bool(x.grad.any()) for x in inputs]


@pytest.mark.parametrize("level", range(4))
def test_a_level_depends_on_its_own_input_and_all_coarser_ones(level):
    assert input_grads(FPN(CHANNELS, WIDTH), level) == [i >= level for i in range(4)]


@pytest.mark.parametrize("smooth", ["merged", "none"])
@pytest.mark.parametrize("level", range(4))
def test_without_top_down_a_level_depends_on_its_own_input_only(level, smooth):
    fpn = FPN(CHANNELS, WIDTH, top_down=False, smooth=smooth)
    assert input_grads(fpn, level) == [i == level for i in range(4)]


@pytest.mark.parametrize("smooth", ["merged", "chained", "none"])
@pytest.mark.parametrize("level", range(4))
def test_without_laterals_all_levels_depend_on_the_coarsest_input_only(level, smooth):
    fpn = FPN(CHANNELS, WIDTH, laterals=False, smooth=smooth)
    assert len(fpn.lateral_convs) == 1
    assert input_grads(fpn, level) == [False, False, False, True]


def test_without_laterals_the_path_is_upsampling_alone():
    fpn = FPN(CHANNELS, WIDTH, laterals=False, smooth="none")
    inputs = maps()
    outs = fpn(inputs)
    expected = fpn.lateral_convs[0](inputs[-1])
    for out, size in zip(reversed(outs), reversed(ODD), strict=True):
        expected = F.interpolate(expected, size=size, mode="nearest")
        torch.testing.assert_close(out, expected, atol=0, rtol=0)


# Edges ------------------------------------------------------------------------------------------


def test_one_level_is_two_convolutions():
    fpn = FPN([4], WIDTH)
    x = torch.randn(1, 4, 7, 5)
    (out,) = fpn([x])
    expected = fpn.fpn_convs[0].conv(fpn.lateral_convs[0].conv(x))
    torch.testing.assert_close(out, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [
        [(1, 1)] * 4,
        [(3, 1), (2, 1), (1, 1), (1, 1)],
        [(4, 5), (8, 10), (3, 3), (9, 2)],  # a coarser map may be the larger one
        [(7, 100), (7, 3), (1, 64), (5, 5)],
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_sizes(sizes, batch):
    fpn = FPN(CHANNELS, WIDTH, 6)
    inputs = maps(sizes, batch=batch)
    *levels, p6, p7 = fpn(inputs)
    assert [tuple(x.shape) for x in levels] == [(batch, WIDTH, *size) for size in sizes]
    h, w = sizes[-1]
    assert p6.shape[-2:] == (math.ceil(h / 2), math.ceil(w / 2))
    assert p7.shape[-2:] == (math.ceil(p6.shape[-2] / 2), math.ceil(p6.shape[-1] / 2))
    for ours, expected in zip(levels, reference(fpn, inputs), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_num_outs_counts_when_it_is_read():
    fpn = FPN([8, 8], 8, num_outs=4, add_extra_convs="on_output")
    fpn.num_outs = 3
    assert len(fpn([torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)])) == 3


@pytest.mark.parametrize(
    ("options", "levels"),
    [({}, 4), ({"start_level": 2}, 2), ({"end_level": 1}, 2), ({"start_level": 3}, 1)],
    ids=str,
)
def test_num_outs_none_means_one_per_used_level(options, levels):
    fpn = FPN(CHANNELS, WIDTH, **options)
    assert fpn.num_outs == fpn.num_levels == len(fpn(maps())) == levels


def test_defaults_are_the_papers():
    fpn = FPN([256, 512, 1024, 2048])
    assert (fpn.out_channels, fpn.num_outs) == (256, 4)
    # 1x1 and 3x3 weights, one bias per output channel each
    count = 256 * (256 + 512 + 1024 + 2048 + 4) + 4 * (256 * 256 * 9 + 256)
    assert sum(p.numel() for p in fpn.parameters()) == count


def test_output_is_a_tuple_for_list_and_tuple():
    fpn, inputs = FPN(CHANNELS, WIDTH), maps()
    from_list, from_tuple = fpn(inputs), fpn(tuple(inputs))
    assert isinstance(from_list, tuple) and isinstance(from_tuple, tuple)
    for a, b in zip(from_list, from_tuple, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_default_weights_are_xavier_uniform_and_biases_zero():
    fpn = FPN([64, 128], 64, 3, add_extra_convs=True)
    for conv in [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]:
        c_out, c_in, *kernel = conv.weight.shape
        bound = math.sqrt(6 / ((c_in + c_out) * math.prod(kernel)))
        largest = conv.weight.abs().max().item()
        assert 0.98 * bound < largest <= bound  # thousands of draws: the largest is near
        assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(conv.weight.mean().item()) < 0.05 * bound
        assert not conv.bias.any()


def test_init_cfg_none_keeps_torchs_initialisation():
    fpn = FPN(CHANNELS, WIDTH, init_cfg=None)
    assert all(conv.conv.bias.any() for conv in [*fpn.lateral_convs, *fpn.fpn_convs])


def test_arguments_of_the_caller_stay_as_they_are():
    arguments = {
        "in_channels": [4, 6, 10, 12],
        "conv_cfg": {"type": "Conv2d", "padding_mode": "reflect"},
        "norm_cfg": {"type": "GN", "num_groups": 4, "requires_grad": False},
        "act_cfg": {"type": "LeakyReLU", "negative_slope": 0.2},
        "upsample_cfg": {"mode": "nearest", "scale_factor": 2},
        "init_cfg": {"type": "Normal", "layer": "Conv2d", "std": 0.1, "bias": 1.0},
    }
    before = copy.deepcopy(arguments)
    fpn = FPN(out_channels=WIDTH, **arguments)
    arguments["in_channels"].append(99)
    assert fpn.in_channels == before["in_channels"]
    arguments["in_channels"].pop()
    assert arguments == before


@pytest.mark.parametrize("source", [False, "on_input", "on_output"])
def test_inputs_of_the_caller_stay_as_they_are(source):
    fpn = FPN(CHANNELS, WIDTH, 6, add_extra_convs=source, act_cfg=RELU)
    inputs = maps()
    copies, same = [x.clone() for x in inputs], list(inputs)
    fpn(inputs)
    assert len(inputs) == 4 and all(a is b for a, b in zip(inputs, same, strict=True))
    for x, x_before in zip(inputs, copies, strict=True):
        torch.testing.assert_close(x, x_before, atol=0, rtol=0)


# What torch does with modules -------------------------------------------------------------------

FULL = {"num_outs": 6, "add_extra_convs": "on_lateral", "relu_before_extra_convs": True}


def test_deepcopy_and_pickle_give_the_same_module():
    fpn, inputs = FPN(CHANNELS, WIDTH, norm_cfg=GN, act_cfg=RELU, **FULL), maps()
    for twin in (copy.deepcopy(fpn), pickle.loads(pickle.dumps(fpn))):
        for a, b in zip(twin(inputs), fpn(inputs), strict=True):
            torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("options", [{}, FULL, {"smooth": "chained"}], ids=str)
def test_compiles_without_a_graph_break(options):
    fpn, inputs = FPN(CHANNELS, WIDTH, **options), maps()
    compiled = torch.compile(fpn, fullgraph=True, backend="eager")
    for a, b in zip(compiled(inputs), fpn(inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_exports():
    fpn, inputs = FPN(CHANNELS, WIDTH, **FULL).eval(), maps()
    exported = torch.export.export(fpn, (inputs,)).module()
    for a, b in zip(exported(inputs), fpn(inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is on its way out, and still used
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_and_reloads():
    fpn, inputs = FPN(CHANNELS, WIDTH, **FULL).eval(), maps()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(fpn, (inputs,)), buffer)
    buffer.seek(0)
    for a, b in zip(torch.jit.load(buffer)(inputs), fpn(inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@torch.no_grad()
def test_torchs_operators_keep_no_map_longer_than_mmdet():
    """mmdet's loop: a merged map replaces its lateral, and all laterals are kept to the end."""
    fpn, inputs = FPN([8, 8, 8], 64), [torch.randn(2, 8, s, s) for s in (48, 24, 12)]

    def mmdets():
        laterals = [conv(x) for conv, x in zip(fpn.lateral_convs, inputs, strict=True)]
        for i in (2, 1):
            up = F.interpolate(laterals[i], size=laterals[i - 1].shape[2:])
            laterals[i - 1] = laterals[i - 1] + up
            del up
        return [conv(x) for conv, x in zip(fpn.fpn_convs, laterals, strict=True)]

    with fast.enable(False):
        assert all(map(torch.equal, fpn(inputs), mmdets()))
        ours, theirs = (peak_memory(f, torch.device("cpu")) for f in (lambda: fpn(inputs), mmdets))
    assert ours <= theirs


@pytest.mark.parametrize("options", [{}, FULL], ids=str)
def test_autocast_to_bfloat16(options):
    fpn, inputs = FPN(CHANNELS, WIDTH, **options), maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = fpn(inputs)
    for low, full in zip(outs, fpn(inputs), strict=True):
        assert low.dtype == torch.bfloat16
        # bfloat16 has 8 bits: 2**-8 each for the few roundings on the way, at values around 1
        torch.testing.assert_close(low.float(), full, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_the_dtype_of_its_weights(dtype):
    outs = FPN(CHANNELS, WIDTH, norm_cfg=GN, **FULL).to(dtype)(maps(dtype=dtype))
    assert {x.dtype for x in outs} == {dtype}


def test_channels_last_is_kept_and_changes_nothing():
    fpn, inputs = FPN(CHANNELS, WIDTH), maps()
    expected = fpn(inputs)
    fpn = fpn.to(memory_format=torch.channels_last)
    outs = fpn([x.to(memory_format=torch.channels_last) for x in inputs])
    for out, other in zip(outs, expected, strict=True):
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"num_outs": 3, "add_extra_convs": "on_lateral", "act_cfg": {"type": "Tanh"}},
        {"num_outs": 3, "smooth": "chained"},
        {"num_outs": 2, "laterals": False, "upsample_cfg": {"mode": "bilinear"}},
    ],
    ids=str,
)
def test_gradients_in_float64(options):
    fpn = FPN([2, 3], 2, **options).double()
    inputs = [torch.randn(1, 2, 3, 3), torch.randn(1, 3, 2, 2)]
    inputs = [x.double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: fpn(x), inputs)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "names", "arguments"),
    [
        (TypeError, "in_channels=256", {"in_channels": 256}),
        (TypeError, "in_channels='256'", {"in_channels": "256"}),
        (TypeError, r"in_channels\[1\]=6\.0", {"in_channels": [4, 6.0, 10, 12]}),
        (TypeError, r"in_channels\[0\]=True", {"in_channels": [True, 6, 10, 12]}),
        (ValueError, r"in_channels=\[\]", {"in_channels": []}),
        (ValueError, r"in_channels\[1\]=0", {"in_channels": [4, 0]}),
        (TypeError, r"out_channels='8'", {"out_channels": "8"}),
        (ValueError, r"out_channels=0", {"out_channels": 0}),
        (ValueError, "num_outs=3", {"num_outs": 3}),
        (ValueError, "num_outs=4.*end_level=-1", {"num_outs": 4, "end_level": 2}),
        (ValueError, "start_level=4", {"start_level": 4}),
        (ValueError, "start_level=-1", {"start_level": -1}),
        (ValueError, "start_level=2, end_level=1", {"start_level": 2, "end_level": 1}),
        (ValueError, "end_level=4", {"end_level": 4}),
        (ValueError, "end_level=-2", {"end_level": -2}),
        (ValueError, "add_extra_convs='p6'.*on_input", {"add_extra_convs": "p6"}),
        (ValueError, "add_extra_convs=None", {"add_extra_convs": None}),
        (ValueError, "smooth='3x3'.*merged", {"smooth": "3x3"}),
        (ValueError, "top_down=False.*chained", {"top_down": False, "smooth": "chained"}),
        (ValueError, "top_down=False.*laterals=False", {"top_down": False, "laterals": False}),
        (TypeError, "norm_cfg='BN'", {"norm_cfg": "BN"}),
        (ValueError, "norm_cfg.*'XN'", {"norm_cfg": {"type": "XN"}}),
        (ValueError, "norm_cfg.*num_groups=3", {"norm_cfg": {"type": "GN", "num_groups": 3}}),
        (TypeError, "conv_cfg", {"conv_cfg": {"kind": "Conv2d"}}),
        (ValueError, "act_cfg.*'Relu'", {"act_cfg": {"type": "Relu"}}),
        (ValueError, "init_cfg.*'Magic'", {"init_cfg": {"type": "Magic"}}),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(error, names, arguments):
    with pytest.raises(error, match=names):
        FPN(**({"in_channels": CHANNELS, "out_channels": WIDTH} | arguments))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_number_of_maps_is_named(count):
    inputs = (maps() * 2)[:count]
    with pytest.raises(ValueError, match=f"got {count} maps.*declares 4"):
        FPN(CHANNELS, WIDTH)(inputs)


@pytest.mark.parametrize(
    ("level", "shape"), [(0, (2, 29, 37, 4)), (2, (2, 9, 8, 10)), (3, (12, 4, 5))], ids=str
)
def test_a_wrong_map_is_named_with_its_level_and_shape(level, shape):
    inputs = maps()
    inputs[level] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"level {level}.*\({shape[0]}, {shape[1]}.*in_channels"):
        FPN(CHANNELS, WIDTH)(inputs)


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        ("in_channels", {"in_channels": None}),
        ("num_outs", {"num_outs": "5"}),
        ("num_outs", {"num_outs": 5.0}),
        ("start_level", {"start_level": "0"}),
        ("start_level", {"start_level": 0.5}),
        ("upsample_cfg", {"upsample_cfg": None}),
        ("upsample_cfg", {"upsample_cfg": {"mode": "nearest", "size": 4}}),
        ("upsample_cfg", {"upsample_cfg": {"mode": "cubic"}}),
    ],
    ids=str,
)
def test_an_argument_of_a_wrong_type_is_named(names, arguments):
    with pytest.raises((TypeError, ValueError), match=names):
        FPN(**({"in_channels": CHANNELS, "out_channels": WIDTH} | arguments))
