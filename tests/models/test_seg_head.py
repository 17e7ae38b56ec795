"""fpn_neck.SegHead and ScaleHeads: parity with mmseg's FPNHead and smp's FPN decoder, edges.

Parity is to 1e-5 in float32, outputs and gradients, see `conftest._assert_parity`.
"""

import copy
import io
import math
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.fast_paths import set_limits
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from fpn_neck import FPN, SegHead
from fpn_neck.fast import enable
from fpn_neck.fast.cpu.conv3x3 import in_faster_layout
from fpn_neck.models.seg_head import ScaleHeads
from fpn_neck.utils.sizes import resize

IN, WIDTH, CLASSES = [4, 6, 10, 12], 8, 5
ODD = [(29, 37), (15, 19), (8, 10), (4, 5)]
EVEN = [(32, 40), (16, 20), (8, 10), (4, 5)]
GN = {"type": "GN", "num_groups": 4}


def pyramid(sizes=ODD, channels=IN, batch=2, dtype=torch.float32):
    return [torch.randn(batch, c, *s, dtype=dtype) for c, s in zip(channels, sizes, strict=True)]


def small_head(in_channels=IN, **options):
    return SegHead(in_channels, CLASSES, **({"channels": WIDTH, "norm_cfg": GN} | options))


# Parity -----------------------------------------------------------------------------------------


def mmseg_head(strides=(4, 8, 16, 32), **options):
    reason = "mmseg is not installed: pip install fpn_neck[mm]"
    pytest.importorskip("torchvision", reason=reason)
    heads = pytest.importorskip("mmseg.models.decode_heads", reason=reason)
    levels = len(strides)
    with warnings.catch_warnings():  # about the loss, which is not used here
        warnings.simplefilter("ignore")
        head = heads.FPNHead(
            strides,
            in_channels=IN[:levels],
            in_index=list(range(levels)),
            channels=WIDTH,
            num_classes=CLASSES,
            **({"dropout_ratio": 0.0} | options),
        )
    nn.init.normal_(head.conv_seg.weight, std=0.3)  # 0.01 would leave the gradients too small
    return head


@pytest.mark.filterwarnings("ignore:When align_corners=True")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["odd", "even"])
@pytest.mark.parametrize("norm_cfg", [{"type": "BN"}, GN, None], ids=["BN", "GN", "none"])
def test_mmseg_parity(norm_cfg, sizes, align_corners, training, assert_parity):
    layers = {"norm_cfg": norm_cfg, "align_corners": align_corners}
    theirs, ours = mmseg_head(**layers), small_head(dropout=0.0, **layers)
    assert_parity(ours.train(training), theirs.train(training), pyramid(sizes))


@pytest.mark.parametrize("strides", [(4,), (8, 8), (4, 16), (8, 16, 32), (4, 4, 8, 8)], ids=str)
def test_mmseg_parity_of_other_strides(strides, assert_parity):
    levels = len(strides)
    sizes = [(-(-93 // s), -(-117 // s)) for s in strides]
    ours = small_head(IN[:levels], strides=strides, dropout=0.0)
    assert_parity(ours, mmseg_head(strides, norm_cfg=GN), pyramid(sizes, IN[:levels]))


def test_mmseg_parity_with_dropout_in_eval_mode(assert_parity):
    theirs = mmseg_head(norm_cfg=GN, dropout_ratio=0.5)
    assert_parity(small_head(dropout=0.5).eval(), theirs.eval(), pyramid())


@pytest.mark.parametrize("norm_cfg", [{"type": "BN"}, GN, None], ids=["BN", "GN", "none"])
def test_mmseg_state_dict_loads_both_ways(norm_cfg):
    ours, theirs = small_head(norm_cfg=norm_cfg), mmseg_head(norm_cfg=norm_cfg)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def from_smp(merge):
    """smp's decoder and head -> FPN(smooth='none') and SegHead.

    smp counts its towers from the coarsest level, and concatenates them in that order: the blocks
    of the classifier's inputs are turned round.
    """
    laterals = {"p5": 3, "p4.skip_conv": 2, "p3.skip_conv": 1, "p2.skip_conv": 0}

    def our_name(name):
        part, _, rest = name.partition(".")
        if part == "1":
            return rest.replace("0.", "1.conv_seg.")  # [conv, upsampling, activation]
        for lateral, level in laterals.items():
            if rest.startswith(f"{lateral}."):
                return f"0.lateral_convs.{level}.conv{rest.removeprefix(lateral)}"
        # seg_blocks.<from coarsest>.block.<conv of the tower>.block.<0 conv, 1 norm>.<tensor>
        _, block, _, i, _, layer, tensor = rest.split(".")
        return f"1.scale_heads.{3 - int(block)}.{2 * int(i)}.{['conv', 'gn'][int(layer)]}.{tensor}"

    def convert(tensors):
        ours = {our_name(name): tensor for name, tensor in tensors.items()}
        if merge == "cat":
            weight = ours["1.conv_seg.weight"]
            ours["1.conv_seg.weight"] = weight.unflatten(1, (4, -1)).flip(1).flatten(1, 2)
        return ours

    return convert


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("merge", ["add", "cat"])
def test_smp_parity(merge, training, assert_parity):
    reason = "segmentation_models_pytorch is not installed"
    smp = pytest.importorskip("segmentation_models_pytorch.decoders.fpn.decoder", reason=reason)
    from segmentation_models_pytorch.base import SegmentationHead

    decoder = smp.FPNDecoder(
        [3, 5, *IN], pyramid_channels=16, segmentation_channels=32, dropout=0.0, merge_policy=merge
    )
    theirs = nn.Sequential(decoder, SegmentationHead(decoder.out_channels, CLASSES, kernel_size=1))
    ours = nn.Sequential(
        FPN(IN, 16, smooth="none"),
        SegHead(16, CLASSES, channels=32, merge=merge, dropout=0.0, align_corners=True),
    )
    assert set(ours.state_dict()) == set(from_smp(merge)(theirs.state_dict()))
    ours.train(training), theirs.train(training)
    assert_parity(ours, theirs, pyramid(EVEN), convert=from_smp(merge))


# What the head is made of -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strides", "convolutions", "upsamplings"),
    [
        ((4, 8, 16, 32), [1, 1, 2, 3], [0, 1, 2, 3]),
        ((8, 16, 32), [1, 1, 2], [0, 1, 2]),
        ((4, 32), [1, 3], [0, 3]),
        ((4, 4), [1, 1], [0, 0]),
        ((1, 2), [1, 1], [0, 1]),
        ((4, 8, 16, 32, 64), [1, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ((6, 12), [1, 1], [0, 1]),
        ((16,), [1], [0]),
    ],
    ids=str,
)
def test_depth_of_the_towers_follows_from_the_strides(strides, convolutions, upsamplings):
    towers = ScaleHeads([3] * len(strides), WIDTH, strides=strides)
    assert [sum(isinstance(m, nn.Conv2d) for m in t.modules()) for t in towers] == convolutions
    within = [sum(isinstance(m, nn.Upsample) for m in t) for t in towers]
    assert [n + last for n, last in zip(within, towers.is_coarser, strict=True)] == upsamplings


def plain_tower(tower, x, align_corners, upsample):
    """[3x3, group norm, ReLU, x2]*, only from torch's functions."""
    for block in tower:
        if isinstance(block, nn.Upsample):
            continue
        x = F.conv2d(x, block.conv.weight, padding=1)
        x = F.relu(F.group_norm(x, block.gn.num_groups, block.gn.weight, block.gn.bias))
        if upsample:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
    return x


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["odd", "even"])
def test_logits_follow_the_papers_formula(sizes, align_corners, shake):
    head, levels = small_head(align_corners=align_corners).eval(), pyramid(sizes)
    shake(head)
    total = 0
    for i, x in enumerate(levels):
        x = plain_tower(head.scale_heads[i], x, align_corners, upsample=i > 0)
        if x.shape[-2:] != sizes[0]:
            x = F.interpolate(x, size=sizes[0], mode="bilinear", align_corners=align_corners)
        total = total + x
    expected = F.conv2d(total, head.conv_seg.weight, head.conv_seg.bias)
    torch.testing.assert_close(head(levels), expected, atol=1e-5, rtol=0)


def test_align_corners_changes_the_result():
    head, levels = small_head().eval(), pyramid()
    other = small_head(align_corners=True).eval()
    other.load_state_dict(head.state_dict())
    assert (head(levels) - other(levels)).abs().max() > 1e-3


def test_add_is_the_sum_and_cat_the_list_of_the_towers():
    levels, options = pyramid(), {"norm_cfg": GN}
    cat, add = (ScaleHeads(IN, WIDTH, merge=merge, **options) for merge in ("cat", "add"))
    add.load_state_dict(cat.state_dict())
    towers = cat(levels).split(WIDTH, dim=1)
    assert (cat.out_channels, add.out_channels, len(towers)) == (4 * WIDTH, WIDTH, 4)
    torch.testing.assert_close(add(levels), sum(towers), atol=1e-6, rtol=0)
    torch.testing.assert_close(towers[0], cat[0](levels[0]), atol=0, rtol=0)
    doubled = F.interpolate(cat[2](levels[2]), scale_factor=2, mode="bilinear")
    expected = resize(doubled, ODD[0])
    torch.testing.assert_close(towers[2], expected, atol=0, rtol=0)


@pytest.mark.parametrize(("merge", "width"), [("add", WIDTH), ("cat", 4 * WIDTH)])
def test_width_of_the_classifier(merge, width):
    head = small_head(merge=merge)
    assert head.conv_seg.weight.shape == (CLASSES, width, 1, 1)
    assert head(pyramid()).shape == (2, CLASSES, *ODD[0])


def test_defaults_are_the_papers():
    head = SegHead(256, 3)
    convs = [m for m in head.scale_heads.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in head.scale_heads.modules() if isinstance(m, nn.GroupNorm)]
    assert [c.out_channels for c in convs] == [128] * 7
    assert [n.num_groups for n in norms] == [32] * 7


def test_initial_weights():
    head = SegHead(64, 50, channels=128)
    for conv in [m for m in head.scale_heads.modules() if isinstance(m, nn.Conv2d)]:
        std = math.sqrt(2 / (9 * 128))  # Kaiming, fan_out
        assert conv.weight.std().item() == pytest.approx(std, rel=0.02)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.conv_seg.bias.any()


def test_dropout_drops_whole_channels_in_training_only():
    head = small_head(dropout=0.5, merge="cat")
    levels, seen = pyramid(batch=8), []
    head.conv_seg.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    merged = head.scale_heads(levels)
    head.eval()(levels)
    torch.testing.assert_close(seen[0], merged, atol=0, rtol=0)
    head.train()(levels)
    dropped = seen[1].eq(0).flatten(2).all(2)  # (N, C)
    assert 0.3 < dropped.float().mean() < 0.7  # of 256 channels; 0.5 +- 6 sigma
    kept = ~dropped[:, :, None, None]
    torch.testing.assert_close(seen[1], merged * kept / 0.5, atol=1e-6, rtol=0)


# Edges ------------------------------------------------------------------------------------------


def test_one_level_is_one_convolution_and_the_classifier():
    head, x = small_head(6, strides=(16,)).eval(), torch.randn(1, 6, 5, 7)
    expected = head.conv_seg(plain_tower(head.scale_heads[0], x, False, upsample=False))
    torch.testing.assert_close(head([x]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [[(1, 1)] * 4, [(2, 1), (1, 1), (1, 1), (1, 1)], [(5, 9), (7, 1), (20, 20), (1, 3)], ODD],
    ids=str,
)
@pytest.mark.parametrize("merge", ["add", "cat"])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_sizes(sizes, merge, batch):
    head = small_head(merge=merge)
    assert head(pyramid(sizes, batch=batch)).shape == (batch, CLASSES, *sizes[0])


def test_one_number_of_channels_stands_for_every_level():
    shared, listed = small_head(6), small_head([6, 6, 6, 6])
    assert {k: v.shape for k, v in shared.state_dict().items()} == {
        k: v.shape for k, v in listed.state_dict().items()
    }


def test_caller_keeps_its_arguments_and_inputs():
    channels, strides, norm = [4, 6], [4, 8], {"type": "GN", "num_groups": 4}
    before = copy.deepcopy((channels, strides, norm))
    head = small_head(channels, strides=strides, norm_cfg=norm)
    assert (channels, strides, norm) == before
    levels = pyramid(ODD[:2], IN[:2])
    copies = [x.clone() for x in levels]
    head(levels)
    assert len(levels) == 2
    assert all(torch.equal(a, b) for a, b in zip(levels, copies, strict=True))


def test_resize_returns_the_same_tensor_where_nothing_is_to_do():
    x = torch.randn(1, 2, 3, 4)
    assert resize(x, (3, 4)) is x
    assert resize(x, x.shape[-2:]) is x
    expected = F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(resize(x, [5, 9], align_corners=True), expected, atol=0, rtol=0)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_compiles_and_exports(merge):
    head, levels = small_head(merge=merge).eval(), pyramid()
    expected = head(levels)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(levels), expected, atol=1e-6, rtol=0)
    exported = torch.export.export(head, (levels,)).module()
    torch.testing.assert_close(exported(levels), expected, atol=1e-6, rtol=0)


def test_deepcopy_and_save_keep_the_weights():
    head, buffer = small_head(merge="cat").eval(), io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    levels = pyramid()
    for twin in (copy.deepcopy(head), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(twin(levels), head(levels), atol=0, rtol=0)


def test_autocast_to_bfloat16():
    head, levels = small_head().eval(), pyramid()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(levels)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), head(levels), atol=0.01, rtol=0.05)


def test_gradients_in_float64():
    head = SegHead(
        [2, 3], 2, channels=2, strides=(4, 8), norm_cfg=None, act_cfg={"type": "Tanh"}, dropout=0
    ).double()
    levels = pyramid([(3, 5), (2, 3)], [2, 3], batch=1, dtype=torch.float64)
    levels = [x.requires_grad_() for x in levels]
    assert torch.autograd.gradcheck(lambda *x: head(x), levels)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (r"strides=\[\]", {"strides": []}),
        (r"strides\[0\]=0", {"strides": (0, 8, 16, 32)}),
        (r"strides=\[4, 8, 24, 32\].*power of two", {"strides": (4, 8, 24, 32)}),
        (r"strides=\[32, 16, 8, 4\].*finest first", {"strides": (32, 16, 8, 4)}),
        (r"strides=\[4, 6, 16, 32\].*power of two", {"strides": (4, 6, 16, 32)}),
        (r"in_channels=\[4, 6, 10\].*strides", {"in_channels": [4, 6, 10]}),
        ("merge='sum'.*add", {"merge": "sum"}),
        ("num_classes=0", {"num_classes": 0}),
        ("num_classes=-1", {"num_classes": -1}),
        (r"dropout=1\.0", {"dropout": 1.0}),
        (r"dropout=-0\.1", {"dropout": -0.1}),
        ("norm_cfg.*num_groups=32.*12", {"channels": 12}),
        ("norm_cfg.*'XN'", {"norm_cfg": {"type": "XN"}}),
        ("act_cfg.*'XU'", {"act_cfg": {"type": "XU"}}),
        ("conv_cfg.*'XC'", {"conv_cfg": {"type": "XC"}}),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(names, options):
    with pytest.raises(ValueError, match=names):
        SegHead(**({"in_channels": IN, "num_classes": CLASSES} | options))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_number_of_levels_is_named(count):
    levels = (pyramid() * 2)[:count]
    with pytest.raises(ValueError, match=f"got {count} maps, in_channels=.*declares 4"):
        small_head()(levels)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("channels", {"channels": 0}),
        ("channels", {"channels": -8, "norm_cfg": None}),
        ("in_channels", {"in_channels": 0}),
        ("in_channels", {"in_channels": None}),
        ("num_classes", {"num_classes": "5"}),
        ("num_classes", {"num_classes": 2.5}),
        ("dropout", {"dropout": None}),
        ("strides", {"strides": 4}),
        ("strides", {"strides": (4, 8.0, 16, 32)}),
    ],
    ids=str,
)
def test_an_argument_of_a_wrong_type_is_named(names, options):
    with pytest.raises((TypeError, ValueError), match=rf"\b{names}\b"):
        SegHead(**({"in_channels": IN, "num_classes": CLASSES} | options))


def test_layout_of_logits_is_that_of_a_large_pyramid(monkeypatch):
    """Inside, maps that are large enough are in channels_last (fast/cpu/conv3x3.py)."""
    set_limits(monkeypatch)
    head = SegHead(64, 5, channels=64, dropout=0.0).eval()
    maps = [torch.randn(1, 64, 256 // s, 256 // s) for s in (1, 2, 4, 8)]
    assert len(in_faster_layout(maps, 64)) == 4 and in_faster_layout(maps, 64)[0] is not maps[0]
    logits = head(maps)
    assert logits.is_contiguous()
    last = head([x.contiguous(memory_format=torch.channels_last) for x in maps])
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(logits, last)
    with enable(False):
        torch.testing.assert_close(logits, head(maps), atol=1e-4, rtol=0)


def test_a_training_step_without_images():
    head = SegHead(64, 5, channels=64, dropout=0.0)
    maps = [torch.randn(0, 64, 256 // s, 256 // s, requires_grad=True) for s in (1, 2, 4, 8)]
    head(maps).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_a_head_alone_has_its_operators():
    """torch.compile of a head must not need that somebody imported a neck."""
    code = "import torch; from fpn_neck import SegHead; torch.ops.fpn_neck.group_norm_relu.default"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Compiled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_a_compiled_head_resizes_no_map_to_the_size_it_has(norm):
    head = SegHead(4, 3, channels=32, norm_cfg={"type": norm}).eval()
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    pyramid = [torch.randn(2, 4, 16 >> i, 24 >> i) for i in range(4)]
    ours = torch.compile(head, fullgraph=True, dynamic=True, backend=counter)(pyramid)
    assert torch.equal(ours, head(pyramid))
    nodes = [n for n in counter.graphs[0].graph.nodes if "interpolate" in str(n.target)]
    assert len(nodes) == 1 + 2 + 1  # in the towers of strides 16 and 32, and of their sum


class Dilated(nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(*args, dilation=2, **options)


def test_towers_that_change_sizes_themselves_compile():
    head = SegHead(7, 3, channels=32, conv_cfg={"type": Dilated}, strides=(4, 8, 16)).eval()
    torch._dynamo.reset()
    pyramid = [torch.randn(2, 7, 32 >> i, 48 >> i) for i in range(3)]
    ours = torch.compile(head, dynamic=True, backend="eager")(pyramid)
    torch.testing.assert_close(ours, head(pyramid), atol=1e-6, rtol=0)
