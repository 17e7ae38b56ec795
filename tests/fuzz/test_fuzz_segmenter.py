"""SegHead and Segmenter: the reference's numbers for any arguments and sizes, or a refusal."""

import pytest
import torch
import torch.nn.functional as F
from helpers import references
from helpers.fast_paths import set_limits
from helpers.fuzzing import REFUSED, RIGHT, junk, options_of, refusal_of, wrong
from hypothesis import strategies as st
from torch import nn

from fpn_neck import CrossEntropyLoss, DiceLoss, SegHead, Segmenter

TOLERANCE = 1e-4  # in float32, of logits of order 1
NORMS = [None, {"type": "BN"}, {"type": "GN", "num_groups": 1}]
ACTS = [None, {"type": "ReLU"}, {"type": "LeakyReLU"}]
MEETS = {
    "in_channels": {"in_channels", "levels", "level", "maps"},
    "strides": {"strides", "in_channels", "levels", "level", "maps"},
    "channels": {"channels", "num_groups"},
    "norm_cfg": {"norm_cfg", "num_groups"},
}
MANY = [200, pytest.param(5_000, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def fast_paths(monkeypatch):
    set_limits(monkeypatch)  # for small maps, too


def blame(names):
    return set().union(*(MEETS.get(name, {name}) for name in names))


@st.composite
def head_arguments(draw):
    """(right arguments, with one or two made wrong at times; their names)"""
    n = draw(st.integers(1, 4))
    finest = draw(st.sampled_from([1, 3, 4]))
    depths = [0, *sorted(draw(st.lists(st.integers(0, 3), min_size=n - 1, max_size=n - 1)))]
    args = {
        "in_channels": draw(
            st.integers(1, 5) | st.lists(st.integers(1, 5), min_size=n, max_size=n)
        ),
        "num_classes": draw(st.integers(1, 5)),
        "channels": draw(st.sampled_from([2, 3, 8])),
        "strides": [finest << depth for depth in depths],
        "merge": draw(st.sampled_from(["add", "cat"])),
        "dropout": draw(st.sampled_from([0, 0.1, 0.9])),
        "conv_cfg": draw(st.sampled_from([None, {"type": "Conv"}])),
        "norm_cfg": draw(st.sampled_from(NORMS)),
        "act_cfg": draw(st.sampled_from(ACTS)),
        "align_corners": draw(st.booleans()),
    }
    names = draw(st.sets(st.sampled_from(sorted(args)), max_size=2)) if draw(st.booleans()) else ()
    return args | {name: draw(wrong(args[name])) for name in names}, set(names)


@st.composite
def head_cases(draw):
    """(arguments, wrong arguments, maps or None where the arguments were refused, wrong maps)"""
    args, names = draw(head_arguments())
    with refusal_of(blame(names)):
        SegHead(**args)
        n, batch = len(args["strides"]), draw(st.sampled_from([1, 2, 0]))
        channels = args["in_channels"]
        channels = list(channels) if hasattr(channels, "__len__") else [channels] * n
        sizes = [draw(st.tuples(st.integers(1, 9), st.integers(1, 9))) for _ in channels]
        maps = [torch.randn(batch, c, *size) for c, size in zip(channels, sizes, strict=True)]
        kind = draw(st.sampled_from(["", "", "", "a map", "maps", "number", "channels", "batch"]))
        i = draw(st.integers(0, n - 1))
        if kind == "a map":
            maps[i] = draw(junk)
        elif kind == "maps":
            maps = draw(st.sampled_from([maps[0], dict(enumerate(maps)), iter(maps), None, 3]))
        elif kind == "number":
            maps = draw(st.sampled_from([maps[1:], [*maps, maps[0]], []]))
        elif kind == "channels":
            maps[i] = torch.randn(
                batch, 1 if channels[i] > 1 else 2, *sizes[i]
            )  # 1 would broadcast
        elif kind == "batch":
            maps.append(torch.randn(batch + 1, *maps.pop().shape[1:]))
            kind = kind if n > 1 else ""
        return args, names, maps, kind
    return args, names, None, ""


def check_head(case):
    args, names, maps, wrong_maps = case
    if maps is None:
        return REFUSED
    if "align_corners" in names:
        assert isinstance(args["align_corners"], bool), "align_corners was taken"
    head = SegHead(**args).eval()
    blamed = options_of(args, names) | ({"level", "maps"} if wrong_maps else set())
    with refusal_of(blamed) as refused:
        with torch.no_grad():
            logits = head(maps)
        assert not wrong_maps, f"{wrong_maps} was taken"
    if refused:
        return REFUSED
    expected = references.seg_head(head.state_dict(), args, maps)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True)
    return RIGHT


@pytest.mark.parametrize("examples", MANY)
def test_seg_head_is_right_or_names_what_is_wrong(fuzz, examples):
    fuzz(examples, head_cases(), check_head)


class Pyramid(nn.Module):
    """One strided convolution per level; level i has size ceil(image / stride)."""

    def __init__(self, out_channels, strides):
        super().__init__()
        self.out_channels, self.strides = out_channels, strides
        pairs = zip(out_channels, strides, strict=True)
        self.levels = nn.ModuleList(nn.Conv2d(3, c, 1, stride=s) for c, s in pairs)

    def forward(self, images):
        return [level(images) for level in self.levels]


DECLARED = [lambda right: right, lambda right: right[:-1], lambda right: None, lambda right: "ab"]
DECLARED += [lambda right: [0.5] * len(right), lambda right: [0] * len(right), lambda right: 4]
OPTIONS = [None, {}, {"no_such": 1}, 3, "abc", [1], {"out_channels": 0}, {"channels": "a"}]
OPTIONS += [{"num_outs": 5}, {"norm_cfg": None, "channels": 4}, {"strides": [4]}, {3: 4}]


@st.composite
def segmenter_cases(draw):
    n = draw(st.integers(1, 4))
    strides = [draw(st.sampled_from([2, 4])) << i for i in range(n)][:1] * n
    strides = [strides[0] << i for i in range(n)]
    channels = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    backbone = Pyramid(channels, strides)
    args = {
        "num_classes": draw(st.integers(1, 5)),
        "backbone_options": draw(st.sampled_from([None, {}])),
        "neck": {"out_channels": 4, "num_outs": draw(st.sampled_from([None, n, n + 1]))},
        "head": {"channels": 4, "norm_cfg": None, "align_corners": draw(st.booleans())},
    }
    names = draw(st.sets(st.sampled_from(sorted(args)), max_size=1)) if draw(st.booleans()) else ()
    args |= {name: draw(junk | st.sampled_from(OPTIONS)) for name in names}
    names = set(names)
    if draw(st.integers(0, 5)) == 0:
        names.add(draw(st.sampled_from(["out_channels", "strides"])))
        for name in names & {"out_channels", "strides"}:
            setattr(backbone, name, draw(st.sampled_from(DECLARED))(getattr(backbone, name)))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    images = torch.randn(draw(st.sampled_from([1, 2])), 3, *size)
    return backbone, args, names, images, draw(st.sampled_from([size, (7, 5), (50, 3)]))


# What a part refuses is named as the part's own argument.
PARTS = {
    "neck": {"neck", "FPN", "out_channels", "channels", "num_outs", "strides", "norm_cfg"},
    "head": {"head", "SegHead", "out_channels", "channels", "strides", "num_outs"},
    "strides": {"strides", "backbone.strides", "num_outs"},
}


def check_segmenter(case):
    backbone, args, names, images, label_size = case
    with refusal_of(set().union(*(PARTS.get(name, {name}) for name in names))) as refused:
        model = Segmenter(backbone, **args).eval()
    if refused:
        return REFUSED
    head = model.head
    corners, k = head.scale_heads.align_corners, args["num_classes"]
    with torch.no_grad():
        logits = model(images)
        small = head(model.neck(backbone(images)))
        big = F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=corners)
        torch.testing.assert_close(logits, big, atol=TOLERANCE, rtol=TOLERANCE)
        labels = model.predict(images)
    assert labels.shape == (len(images), *images.shape[-2:]) and labels.dtype == torch.int64
    big = references.class_logits(big)
    chosen = big.gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, big.amax(1), atol=TOLERANCE, rtol=0)  # ties either way
    target = torch.randint(0, max(2, k), (len(images), *label_size))
    target[torch.rand(target.shape) < 0.1] = 255
    losses = CrossEntropyLoss(), DiceLoss()
    at_labels = F.interpolate(small, label_size, mode="bilinear", align_corners=corners)
    expected = sum(loss(at_labels, target) for loss in losses)
    loss = model.loss(images, target, *losses)
    torch.testing.assert_close(loss.detach(), expected, atol=TOLERANCE, rtol=TOLERANCE)
    return RIGHT


@pytest.mark.parametrize("examples", [150, pytest.param(2_000, marks=pytest.mark.slow)])
def test_segmenter_is_right_or_names_what_is_wrong(fuzz, examples):
    fuzz(examples, segmenter_cases(), check_segmenter)
