"""Arguments that once passed unseen, or ended in an error from inside."""

import pytest
import torch
from helpers.fast_paths import set_limits

from fpn_neck import FPN, DiceLoss, SegHead
from fpn_neck.strips.label_map import label_map


def maps(*shapes):
    return [torch.ones(shape) for shape in shapes]


def test_maps_of_two_batches_are_not_added():
    """One photo's map would be added to each of the other level's."""
    with pytest.raises(ValueError, match="level 1.*1 photos, level 0 is of 2"):
        FPN([2, 3], 4)(maps((2, 2, 8, 8), (1, 3, 4, 4)))


def test_a_map_of_one_channel_is_not_spread_over_many(monkeypatch):
    """The fast convolution would copy it into every channel."""
    set_limits(monkeypatch)
    head = SegHead(4, 3, channels=4, strides=[4], norm_cfg=None)
    with pytest.raises(ValueError, match="level 0.*expected .N, 4, H, W"):
        head(maps((1, 1, 8, 8)))


@pytest.mark.parametrize(
    ("level", "error"),
    [
        (None, TypeError),
        (torch.ones(1, 2, 8, 8, dtype=torch.int64), TypeError),
        (torch.ones(1, 2, 0, 8), ValueError),
    ],
    ids=["None", "int64", "empty"],
)
def test_a_level_that_is_no_float_map_is_named(level, error):
    with pytest.raises(error, match="FPN level 0"):
        FPN([2], 4)([level])


def levels(*dtypes, device="cpu"):
    return [torch.ones(1, 2, 8 >> i, 8 >> i, dtype=t, device=device) for i, t in enumerate(dtypes)]


@pytest.mark.parametrize(
    "module", [FPN([2, 2, 2], 4), SegHead(2, 3, channels=4, strides=[4, 8, 16], norm_cfg=None)]
)
def test_levels_of_two_dtypes_or_devices_are_named(module):
    for dtype in torch.float64, torch.bfloat16:
        with pytest.raises(TypeError, match="level 2: got a .* level 0 is torch.float32"):
            module(levels(torch.float32, torch.float32, dtype))
    elsewhere = levels(*[torch.float32] * 3, device="meta")
    with pytest.raises(ValueError, match="level 1: got a map on meta, level 0 is on cpu"):
        module([*levels(torch.float32), *elsewhere[1:]])


@pytest.mark.parametrize(
    "module", [FPN([2, 2, 2], 4), SegHead(2, 3, channels=4, strides=[4, 8, 16], norm_cfg=None)]
)
def test_autocast_takes_levels_of_different_dtypes(module):
    mixed = levels(torch.float32, torch.bfloat16, torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(mixed)
        assert (found if isinstance(found, torch.Tensor) else found[0]).dtype == torch.bfloat16
        with pytest.raises(TypeError, match="level 1: got a torch.float64 map"):
            module(levels(torch.float32, torch.float64, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [None, {"type": "BN"}])
def test_maps_of_another_dtype_than_the_weights_are_named(dtype, norm):
    head = SegHead(2, 3, channels=4, strides=[4, 8], norm_cfg=norm)
    for owner, module in ("FPN", FPN([2, 2], 4, norm_cfg=norm)), ("SegHead", head):
        with pytest.raises(TypeError, match=f"{owner} level 0: .*the weights are torch.float32"):
            module(levels(dtype, dtype))
    neck = FPN([2, 2, 2], 4, start_level=1)
    with pytest.raises(TypeError, match="FPN level 1"):
        neck(levels(torch.float32, dtype, dtype))


def test_a_hook_may_convert_maps():
    neck = FPN([2, 2], 4)
    for block in neck.lateral_convs:
        block.register_forward_pre_hook(lambda module, args: tuple(x.float() for x in args))
    assert neck(levels(torch.float64, torch.float64))[0].dtype == torch.float32


def test_levels_that_are_not_read_may_have_any_dtype():
    mixed = levels(torch.float64, torch.float32, torch.float32)
    assert FPN([2, 2, 2], 4, start_level=1, num_outs=2)(mixed)[0].dtype == torch.float32
    only_sizes = levels(torch.float64, torch.float16, torch.float32)
    assert FPN([2, 2, 2], 4, laterals=False)(only_sizes)[0].shape == (1, 4, 8, 8)


def test_a_compiled_neck_names_a_level_too():
    neck = torch.compile(FPN([2, 2], 4), backend="eager", fullgraph=True)
    assert len(neck(levels(torch.float32, torch.float32))) == 2
    with pytest.raises(Exception, match="level 1: got a torch.float64 map"):
        neck(levels(torch.float32, torch.float64))


def test_a_dict_of_maps_is_named():
    with pytest.raises(TypeError, match="got a dict; give a list of maps"):
        FPN([2], 4)({"0": torch.ones(1, 2, 8, 8)})


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("num_outs", {"num_outs": 2**31, "add_extra_convs": True}),  # endless
        ("out_channels", {"out_channels": 2**40}),
        ("top_down", {"top_down": "no"}),
        ("act_cfg", {"act_cfg": {"type": "ReLU", "layer": 1}}),  # the builder's own argument
        ("act_cfg", {"act_cfg": {"type": len}}),
        ("conv_cfg", {"conv_cfg": {"type": "Conv2d", "groups": 3}}),
        ("init_cfg", {"init_cfg": {"type": "Normal", "std": -1}}),  # a RuntimeError of torch
        ("init_cfg", {"init_cfg": {"type": "Xavier", "bias": "no"}}),
    ],
)
def test_a_wrong_argument_is_named(names, options):
    with pytest.raises((TypeError, ValueError), match=names):
        FPN([2, 3], **{"out_channels": 4} | options)


@pytest.mark.parametrize("weights", ["abc", [], [1, float("nan")], 3, [[1]]], ids=str)
def test_class_weights_are_numbers(weights):
    with pytest.raises((TypeError, ValueError), match="class_weight"):
        DiceLoss(weights)


@pytest.mark.parametrize("size", [3, (0, 5), (4, 5, 6), (2.5, 3)], ids=str)
def test_a_label_map_has_a_height_and_a_width(size):
    with pytest.raises((TypeError, ValueError), match="size"):
        label_map(torch.ones(1, 2, 4, 4), size)
