"""fpn_neck.PanopticFPNHead beside mmdet's, and what an mmdet config makes mmengine import."""

import pytest
import torch

for _package in ("mmdet", "mmcv"):
    pytest.importorskip(_package)

import fpn_neck  # noqa: E402, F401

pytest.importorskip("mmdet.models")  # importable through fpn_neck

from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402

THINGS, STUFF, CHANNELS = 4, 3, 8
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def mmdets_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def head(kind, **options):
    cfg = dict(
        type=kind,
        num_things_classes=THINGS,
        num_stuff_classes=STUFF,
        in_channels=CHANNELS,
        inner_channels=16,
        norm_cfg=dict(type="GN", num_groups=4, requires_grad=True),
        loss_seg=dict(type="CrossEntropyLoss", ignore_index=255, loss_weight=0.5),
    )
    return MODELS.build(cfg | options)


def pair(**options):
    """mmdet's head and ours with the same weights, scaled so that logits differ."""
    theirs, ours = head("PanopticFPNHead", **options), head("fpn_neck.PanopticFPNHead", **options)
    with torch.no_grad():
        theirs.conv_logits.weight.normal_(std=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def pyramid(height=64, width=128, levels=5):
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32, 64)]
    return [torch.randn(2, CHANNELS, *size) for size in sizes[:levels]]


def truth(height=64, width=128):
    """Labels of things (0..3), of stuff (4..6), and ignored ones."""
    labels = torch.randint(0, THINGS + STUFF, (2, 1, height, width), dtype=torch.uint8)
    labels[:, :, :9] = 255
    samples = [DetDataSample() for _ in labels]
    for sample, label in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(sem_seg=label)
    return samples


def metas(height=64, width=128):
    shapes = {"batch_input_shape": (height, width), "img_shape": (height - 5, width - 9)}
    return [shapes | {"ori_shape": (50, 70)}] * 2


norms = pytest.mark.parametrize(
    "norm_cfg", [None, {"type": "BN"}, {"type": "GN", "num_groups": 4}], ids=["none", "BN", "GN"]
)
levels = pytest.mark.parametrize("end", [4, 1, 5])


# --------------------------------------------------------------------- against mmdet's own head


@norms
@levels
def test_parity_with_mmdet(assert_parity, norm_cfg, end):
    """Logits, merged map, gradients of all levels and all weights, batch norm's statistics."""
    ours, theirs = pair(norm_cfg=norm_cfg, end_level=end)
    assert list(ours.state_dict()) == list(theirs.state_dict())

    class Flat(torch.nn.Module):
        """assert_parity compares modules that give maps."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, maps):
            return list(self.module(maps).values())

    assert_parity(Flat(ours), Flat(theirs), pyramid()[:end])


@norms
@levels
def test_equal_losses(norm_cfg, end):
    ours, theirs = pair(norm_cfg=norm_cfg, end_level=end)
    maps, samples = pyramid(), truth()
    a, b = ours.loss(maps, samples), theirs.loss(maps, samples)
    assert list(a) == list(b) == ["loss_seg"] and b["loss_seg"] > 0.1
    torch.testing.assert_close(a["loss_seg"], b["loss_seg"], atol=0, rtol=TOLERANCE)


def test_a_wrong_label_names_its_photo():
    samples = truth()
    samples[1].gt_sem_seg.sem_seg[0, 20, 3] = THINGS + STUFF
    samples[1].set_metainfo({"img_path": "photos/0042.jpg"})
    with pytest.raises(ValueError, match=r"photos/0042.jpg: .* label 7.* 0..6 "):
        head("fpn_neck.PanopticFPNHead").loss(pyramid(), samples)


@pytest.mark.parametrize("rescale", [False, True])
def test_equal_predictions(rescale):
    ours, theirs = (m.eval() for m in pair())
    maps = pyramid()
    a, b = (m.predict(maps, metas(), rescale=rescale) for m in (ours, theirs))
    assert [m.shape for m in a] == [(STUFF + 1, *((50, 70) if rescale else (64, 128)))] * 2
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("init", [False, True], ids=["built", "after init_weights"])
def test_weights_are_drawn_as_mmdet_draws_them(init):
    """Standard deviation of every convolution of the towers within 5 %, of the classifier 20 %."""
    wide = {"in_channels": 64, "inner_channels": 64}
    heads = head("fpn_neck.PanopticFPNHead", **wide), head("PanopticFPNHead", **wide)
    for module in heads:
        if init:
            module.init_weights()
    ours, theirs = (m.state_dict() for m in heads)
    for name, weight in ours.items():
        if weight.dim() == 4 and weight.shape[-1] == 3:
            assert (weight.std() / theirs[name].std()).item() == pytest.approx(1, abs=0.05), name
    if init:
        for state in (ours, theirs):
            assert state["conv_logits.weight"].std().item() == pytest.approx(0.01, rel=0.2)
            assert (state["conv_logits.bias"] == 0).all()


def test_default_arguments_are_mmdets():
    ours, theirs = (MODELS.build({"type": t + "PanopticFPNHead"}) for t in ("fpn_neck.", ""))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    names = ("num_classes", "num_things_classes", "num_stuff_classes", "seg_rescale_factor")
    names += ("start_level", "end_level", "num_stages", "inner_channels")
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.loss_seg.ignore_index == theirs.loss_seg.ignore_index


# ------------------------------------------------------------------------------------- our own


@pytest.mark.parametrize("size", [(33, 65), (70, 50), (5, 7)])
def test_any_size_where_mmdets_head_stops(size):
    ours, theirs = pair()
    maps = pyramid(*size)
    with pytest.raises(RuntimeError):
        theirs(maps)
    finest = maps[0].shape[-2:]
    assert ours(maps)["seg_preds"].shape == (2, STUFF + 1, *finest)
    assert ours.loss(maps, truth(*size))["loss_seg"].isfinite()


def test_too_few_levels_are_refused_by_name():
    with pytest.raises(ValueError, match="got 3 levels and end_level=4; raise the neck's num_outs"):
        head("fpn_neck.PanopticFPNHead")(pyramid(levels=3))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"start_level": 1}, "start_level=1: expected 0, the neck's finest level"),
        ({"end_level": 0}, "end_level=0: expected at least 1"),
    ],
)
def test_levels_that_make_no_head_are_refused(levels, words):
    with pytest.raises(ValueError, match=words):
        head("fpn_neck.PanopticFPNHead", **levels)


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_groups=5 must divide the 16 channels"):
        head("fpn_neck.PanopticFPNHead", norm_cfg=dict(type="GN", num_groups=5))


# ------------------------------------------------------------------------------- what is imported

LOOK_UP = """
import sys
import fpn_neck
from {framework}.registry import MODELS
for name in {names}:
    assert MODELS.get("fpn_neck." + name) is not None
    print(name, *sorted({{"mmdet", "mmseg"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("framework", "names", "loaded"),
    [
        ("mmengine", ["FPN", "PyramidBackbone"], []),
        ("mmdet", ["FPN", "PyramidBackbone", "PanopticFPNHead"], ["mmdet"]),
    ],
)
def test_a_name_loads_the_framework_in_use_and_no_other(run_python, framework, names, loaded):
    """Not so for mmseg, which loads mmdet by itself where it is installed."""
    pytest.importorskip("mmseg")
    out = run_python(LOOK_UP.format(framework=framework, names=names))
    found = [line.split() for line in out.splitlines()]  # and what the libraries have to say
    assert [words for words in found if words[0] in names] == [[name, *loaded] for name in names]


def test_without_a_framework_in_use_the_right_one_is_found(run_python):
    pytest.importorskip("mmseg")
    out = run_python(
        "from mmengine.registry import DATASETS, MODELS\n"
        "for name in ('PanopticFPNHead', 'FPNHead'):\n"
        "    print(MODELS.get(f'fpn_neck.{name}').__module__)\n"
        "print(DATASETS.get('fpn_neck.ShapesDataset').__module__)\n"
    )
    assert [word for word in out.split() if word.startswith("fpn_neck.")] == [
        "fpn_neck.mm.det.panoptic_head",
        "fpn_neck.mm.seg.head",
        "fpn_neck.mm.seg.datasets",
    ]
