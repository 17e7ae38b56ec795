"""FPN with any arguments on maps of any kind: the reference's numbers, or a named refusal."""

import pytest
import torch
from helpers import references
from helpers.fast_paths import set_limits
from helpers.fuzzing import REFUSED, RIGHT, junk, options_of, refusal_of, wrong
from hypothesis import strategies as st

from fpn_neck import FPN

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of maps of order 1
# A wrong value of the first may first be seen where it meets another one.
MEETS = {
    "in_channels": {"in_channels", "start_level", "num_outs", "maps", "level"},
    "out_channels": {"out_channels", "num_groups"},
    "start_level": {"start_level", "num_outs"},
    "end_level": {"end_level", "num_outs"},
}
FLAGS = ("relu_before_extra_convs", "no_norm_on_lateral", "top_down", "laterals")
# One group: torch refuses groups of a single value.
NORMS = [None, {"type": "BN"}, {"type": "GN", "num_groups": 1}, {"type": "BN", "eps": 1e-2}]
ACTS = [None, {"type": "ReLU"}, {"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Tanh"}]
UPSAMPLINGS = [
    {"mode": "nearest"},
    {"mode": "nearest", "scale_factor": 2},
    {"mode": "nearest-exact"},
    {"mode": "bilinear"},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "bicubic"},
    {"mode": "area"},
]
INITS = [None, {"type": "Xavier", "distribution": "uniform"}, {"type": "Kaiming", "a": 1}]
INITS += [{"type": "Normal", "std": 0.1}, {"type": "Caffe2Xavier", "bias": 0.5}]


@st.composite
def arguments(draw):
    """(right arguments, with one or two made wrong at times; their names)"""
    n = draw(st.integers(1, 5))
    start = draw(st.integers(0, n - 1))
    last = draw(st.integers(start, n - 1))
    levels, whole = last - start + 1, last == n - 1
    outs = [None, levels] + [levels + 1, levels + 2, levels + 4] * whole
    args = {
        "in_channels": draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)),
        "out_channels": draw(st.sampled_from([2, 4, 8])),
        "num_outs": draw(st.sampled_from(outs)),
        "start_level": start,
        "end_level": draw(st.sampled_from([last, -1])) if whole else last,
        "add_extra_convs": draw(
            st.sampled_from([False, True, "on_input", "on_lateral", "on_output"])
        ),
        "relu_before_extra_convs": draw(st.booleans()),
        "no_norm_on_lateral": draw(st.booleans()),
        "conv_cfg": draw(st.sampled_from([None, {"type": "Conv2d"}])),
        "norm_cfg": draw(st.sampled_from(NORMS)),
        "act_cfg": draw(st.sampled_from(ACTS)),
        "upsample_cfg": draw(st.sampled_from(UPSAMPLINGS)),
        "init_cfg": draw(st.sampled_from(INITS)),
        "smooth": draw(st.sampled_from(["merged", "chained", "none"])),
        "top_down": True,
        "laterals": True,
    }
    if args["smooth"] != "chained":
        args[draw(st.sampled_from(["top_down", "laterals"]))] = draw(st.booleans())
    if draw(st.booleans()):  # the paper's: the fast paths
        plain = {"norm_cfg", "act_cfg", "upsample_cfg", "smooth", "top_down", "laterals"}
        args = {k: v for k, v in args.items() if k not in plain} | {
            "upsample_cfg": {"mode": "nearest"}
        }
    names = draw(st.sets(st.sampled_from(sorted(args)), max_size=2)) if draw(st.booleans()) else ()
    return args | {name: draw(wrong(args[name])) for name in names}, set(names)


@st.composite
def feature_maps(draw, channels):
    """(maps of these channels, one of them made wrong at times; whether that is so)"""
    batch = draw(st.sampled_from([1, 2, 3, 0]))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    maps = [
        draw(layout(batch, c, draw(st.integers(1, 12)), draw(st.integers(1, 12)), dtype))
        for c in channels
    ]
    wrong = draw(st.sampled_from(["", "", "a map", "maps", "shape", "batch", "number", "dtype"]))
    i = draw(st.integers(0, len(maps) - 1))
    if wrong == "a map":
        maps[i] = draw(junk)
    elif wrong == "maps":
        others = [maps[0], dict(enumerate(maps)), iter(maps), None, 3, "maps", torch.tensor(1.0)]
        maps = draw(st.sampled_from(others))
    elif wrong == "shape":
        n, c, h, w = maps[i].shape
        others = [(n, c, h, w, 1), (c, h, w), (), (n, c + 1, h, w), (n, c, 0, w), (n, c, h, 0)]
        maps[i] = torch.ones(draw(st.sampled_from(others)), dtype=dtype)
    elif wrong == "batch":
        maps.append(maps.pop().new_ones(batch + 1, channels[-1], 3, 3))
        wrong = "" if len(maps) == 1 else wrong
    elif wrong == "number":
        maps = draw(st.sampled_from([maps[1:], [*maps, maps[-1]], []]))
    elif wrong == "dtype":
        kinds = [torch.int64, torch.bool, torch.complex64, torch.uint8]
        maps[i] = maps[i].to(draw(st.sampled_from(kinds)))
    return maps, dtype, wrong


@st.composite
def layout(draw, n, c, h, w, dtype):
    """A random map in one of the layouts that users' code makes."""
    make = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["plain", "last", "sliced", "expanded", "transposed"]))
    if kind == "sliced":
        return torch.randn(n, c + 1, h + 2, 2 * w, dtype=dtype, generator=make)[:, 1:, 2:, ::2]
    if kind == "expanded":
        return torch.randn(n, 1, h, 1, dtype=dtype, generator=make).expand(n, c, h, w)
    if kind == "transposed":
        return torch.randn(n, c, w, h, dtype=dtype, generator=make).mT
    x = torch.randn(n, c, h, w, dtype=dtype, generator=make)
    return x.contiguous(memory_format=torch.channels_last) if kind == "last" else x


def blame(names):
    return set().union(*(MEETS.get(name, {name}) for name in names))


@st.composite
def cases(draw):
    args, names = draw(arguments())
    with refusal_of(blame(names)):
        channels = FPN(**args).in_channels
        return args, names, *draw(feature_maps(channels)), draw(st.booleans())
    return args, names, None, None, "", False


def check(case):
    args, names, maps, dtype, wrong_maps, grad = case
    if maps is None:
        return REFUSED
    for flag in names.intersection(FLAGS):
        assert isinstance(args[flag], bool), f"{flag}={args[flag]!r} was taken"
    neck = FPN(**args).eval().to(dtype)
    blamed = options_of(args, names) | ({"level", "maps"} if wrong_maps else set())
    with refusal_of(blamed) as refused:
        with torch.set_grad_enabled(grad):
            outs = neck(maps)
        assert not wrong_maps, f"{wrong_maps} was taken"
    if refused:
        return REFUSED
    assert type(outs) is tuple
    expected = references.fpn(neck.state_dict(), args, maps)
    assert len(outs) == len(expected)
    for ours, theirs in zip(outs, expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], equal_nan=True
        )
    return RIGHT


@pytest.mark.parametrize("examples", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fpn_is_right_or_names_what_is_wrong(fuzz, examples, monkeypatch):
    set_limits(monkeypatch)  # small maps on the fast paths, too
    fuzz(examples, cases(), check)
