"""fpn_neck.PyramidBackbone in plain torch, mmdet and mmseg; timm backbones in detectors."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")

from fpn_neck import FPN, Segmenter  # noqa: E402
from fpn_neck.models.pyramid_backbone import PyramidBackbone  # noqa: E402
from fpn_neck.models.timm_backbone import TimmBackbone  # noqa: E402

TIMM = dict(type="fpn_neck.TimmBackbone", model_name="resnet18")
RESNET = dict(type="ResNet", depth=18, norm_eval=True, frozen_stages=1)
NECK = dict(out_channels=8, num_outs=5)


class Declared(nn.Module):
    """Two maps of strides 4 and 8, as it says."""

    out_channels, strides = (4, 6), (4, 8)

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(3, c, s, s) for c, s in zip((4, 6), (4, 8), strict=True)
        )

    def forward(self, x):
        return [conv(x) for conv in self.convs]


class Undeclared(Declared):
    out_channels = strides = None


def mm(framework):
    """That framework's models, under its scope."""
    pytest.importorskip("mmcv")
    pytest.importorskip(f"{framework}.models")
    from mmengine.registry import MODELS, DefaultScope

    class Scoped:
        @staticmethod
        def build(cfg):
            with DefaultScope.overwrite_default_scope(framework):
                return MODELS.build(cfg)

    return Scoped


# ----------------------------------------------------------------------------------- plain torch


def test_it_is_the_backbone_and_the_neck_one_after_the_other():
    model = PyramidBackbone("resnet18", NECK).eval()
    assert isinstance(model.backbone, TimmBackbone) and type(model.neck) is FPN
    image = torch.randn(2, 3, 65, 97)
    maps = model(image)
    assert model.strides == (4, 8, 16, 32, 64) and model.out_channels == (8,) * 5
    for m, stride in zip(maps, model.strides, strict=True):
        assert m.shape == (2, 8, -(-65 // stride), -(-97 // stride))
    torch.testing.assert_close(maps, model.neck(model.backbone(image)), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("neck", "strides"),
    [
        (None, (4, 8)),
        ({}, (4, 8)),
        ({"start_level": 1}, (8,)),
        ({"end_level": 0}, (4,)),
        ({"start_level": 1, "num_outs": 3, "add_extra_convs": "on_input"}, (8, 16, 32)),
        ({"num_outs": 4}, (4, 8, 16, 32)),
    ],
)
@pytest.mark.parametrize("backbone", [Declared, Undeclared])
def test_strides_of_the_levels(backbone, neck, strides):
    model = PyramidBackbone(backbone(), neck)
    assert model.strides == strides
    assert len(model.out_channels) == len(strides)
    maps = model(torch.randn(1, 3, 64, 96))
    assert [m.shape[2:] for m in maps] == [(64 // s, 96 // s) for s in strides]
    assert [m.shape[1] for m in maps] == list(model.out_channels)


@pytest.mark.parametrize("training", [False, True])
def test_measuring_leaves_the_backbone_as_it_was(training):
    backbone = Undeclared()
    backbone.norm, backbone.drop = nn.BatchNorm2d(6), nn.Dropout()
    backbone.register_forward_hook(lambda m, args, maps: [m.drop(maps[0]), m.norm(maps[1])])
    backbone.train(training)
    backbone.drop.eval()
    before = {n: t.clone() for n, t in backbone.state_dict().items()}
    torch.manual_seed(3)
    model = PyramidBackbone(backbone, NECK)
    torch.manual_seed(3)  # nor are random numbers drawn
    weight = FPN((4, 6), **NECK).lateral_convs[0].conv.weight
    torch.testing.assert_close(model.neck.lateral_convs[0].conv.weight, weight, atol=0, rtol=0)
    assert model.backbone is backbone and backbone.training is backbone.norm.training is training
    assert not backbone.drop.training
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())


def test_on_the_meta_device():
    with torch.device("meta"):
        model = PyramidBackbone(Undeclared(), NECK)
    assert model.strides == (4, 8, 16, 32, 64)


def test_a_segmenter_takes_it_as_its_backbone():
    model = Segmenter(PyramidBackbone(Declared(), {"out_channels": 8}), 3, head={"channels": 32})
    assert model(torch.randn(1, 3, 40, 24)).shape == (1, 3, 40, 24)


# ---------------------------------------------------------------------------------- refused


class Gives(nn.Module):
    """Gives what it is told, made of the image."""

    def __init__(self, maps):
        super().__init__()
        self.maps, self.weight = maps, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.maps(x)


def same_stride(x):
    return [x[..., ::16, ::16]] * 4


@pytest.mark.parametrize(
    ("maps", "error", "words"),
    [
        (same_stride, ValueError, r"Gives gives maps of strides \[16, 16, 16, 16\].*out_indices"),
        (lambda x: [x[..., ::16, ::16]], ValueError, r"strides \[16\]: an FPN needs two or more"),
        (lambda x: [x[..., ::8, ::8], x[..., ::4, ::4]], ValueError, r"strides \[8, 4\]"),
        (lambda x: x[..., ::16, ::16], TypeError, "gives Tensor, not a sequence of maps"),
        (lambda x: [x.mean((2, 3))] * 2, TypeError, "gives list, not a sequence of maps"),
        (
            lambda x: [x.view(7, -1)],
            ValueError,
            "does not run on a .1, 3, 128, 128. image .*invalid",
        ),
        (lambda x: [x][1], ValueError, "does not run on a .* image .*list index out of range"),
    ],
)
def test_a_backbone_without_a_pyramid_is_refused(maps, error, words):
    with pytest.raises(error, match=words):
        PyramidBackbone(Gives(maps), NECK)


def test_a_plain_vit_is_refused():
    with pytest.raises(ValueError, match="vit_tiny.*strides .*16, 16.* hierarchical"):
        PyramidBackbone("vit_tiny_patch16_224", NECK)


@pytest.mark.parametrize("name", ["type", "in_channels"])
def test_what_is_known_already_is_refused_in_the_neck(name):
    with pytest.raises(
        TypeError, match="in_channels are what the backbone declares; leave them out"
    ):
        PyramidBackbone(Declared(), NECK | {name: "FPN"})


WITHOUT_MMENGINE = """
from fpn_neck.models.pyramid_backbone import PyramidBackbone
try:
    PyramidBackbone(dict(type="ResNet", depth=18))
except TypeError as e:
    print(e)
"""


def test_a_config_is_refused_before_the_registry_is_there(run_python):
    said = run_python(WITHOUT_MMENGINE)
    assert "backbone={'type': 'ResNet', 'depth': 18}" in said
    assert "import fpn_neck.registry first" in said


def test_a_config_that_mmengine_cannot_build_is_refused():
    pytest.importorskip("mmengine")
    import fpn_neck.registry  # noqa: F401

    with pytest.raises(ValueError, match="backbone={'type': 'NoSuch'} can't be built: .*NoSuch"):
        PyramidBackbone(dict(type="NoSuch"))


def test_something_else_as_a_backbone_is_refused():
    with pytest.raises(TypeError, match="backbone=50: expected a config"):
        PyramidBackbone(50, NECK)


# --------------------------------------------------------------------------- mmdet and mmseg


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        (RESNET, [64, 128, 256, 512]),
        (dict(type="ResNet", depth=50, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
              out_indices=(0, 1, 2)), [256, 512, 1024]),
        (dict(type="SwinTransformer", embed_dims=12, num_heads=[1, 2, 3, 4]), [12, 24, 48, 96]),
        (TIMM, [64, 128, 256, 512]),
    ],
    ids=["r18", "r50", "swin", "timm"],
)  # fmt: skip
def test_channels_of_any_registered_backbone(framework, backbone, channels):
    if framework == "mmseg" and backbone["type"] == "ResNet":
        backbone = backbone | {"norm_cfg": dict(type="BN")}
    cfg = dict(type="fpn_neck.PyramidBackbone", backbone=backbone, neck=NECK)
    model = mm(framework).build(cfg)
    levels = len(channels)
    assert model.neck.in_channels == channels
    assert model.strides == (4, 8, 16, 32, 64)[: max(levels, 5)]
    maps = model(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps][:levels] == [
        (64 // s, 96 // s) for s in (4, 8, 16, 32)[:levels]
    ]


def test_the_backbones_own_freezing_holds():
    model = (
        mm("mmdet").build(dict(type="fpn_neck.PyramidBackbone", backbone=RESNET, neck=NECK)).train()
    )
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen and all(
        n.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1")) for n in frozen
    )
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def pretrained(tmp_path):
    """A file of weights and the config of a backbone that loads it."""
    backbone = mm("mmdet").build(RESNET)
    state = {n: t + torch.rand_like(t) / 100 if t.is_floating_point() else t
             for n, t in backbone.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "r18.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "r18.pth"))
    return state, RESNET | {"init_cfg": init}


FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"


def faster_rcnn(backbone, **neck):
    """mmdet's Faster R-CNN with backbone and neck in one."""
    pytest.importorskip("mmdet.models")
    from fpn_neck.mm.config.load import load_config

    model = load_config(FASTER).model
    model.backbone = dict(type="fpn_neck.PyramidBackbone", backbone=backbone, neck=neck)
    model.neck = None
    return mm("mmdet").build(model)


def test_faster_rcnn_equals_the_one_with_two_parts(tmp_path):
    """The backbone's weights are loaded by init_weights; the detector sees the same pyramid."""
    scoped = mm("mmdet")
    from mmdet.testing._utils import demo_mm_inputs

    from fpn_neck.mm.config.load import load_config

    state, backbone = pretrained(tmp_path)
    ours = faster_rcnn(backbone, out_channels=256, num_outs=5)
    assert not ours.with_neck
    ours.init_weights()
    for name, tensor in ours.backbone.backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=0, rtol=0)

    cfg = load_config(FASTER)
    cfg.merge_from_dict({"model.neck.in_channels": [64, 128, 256, 512]})
    theirs = scoped.build(cfg.model | {"backbone": RESNET})
    weights = {
        n.replace("backbone.neck.", "neck.").replace("backbone.backbone.", "backbone."): t
        for n, t in ours.state_dict().items()
    }
    theirs.load_state_dict(weights, strict=True)
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        data = model.data_preprocessor(demo_mm_inputs(2, (3, 64, 96), [2, 3], 80), training=True)
        losses.append(model.train().loss(data["inputs"], data["data_samples"]))
    total = [float(sum(torch.as_tensor(v).sum() for v in d["loss_rpn_cls"])) for d in losses]
    assert total[0] > 0
    assert list(losses[0]) == list(losses[1])
    torch.testing.assert_close(*losses, atol=0, rtol=1e-5)


def test_mmsegs_encoder_decoder(tmp_path):
    build = mm("mmseg").build
    import mmseg.models  # noqa: F401
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    head = dict(
        type="fpn_neck.FPNHead",
        in_channels=[8] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=16,
        num_classes=5,
    )
    backbone = dict(type="fpn_neck.PyramidBackbone", backbone=TIMM, neck=dict(out_channels=8))
    preprocessor = dict(type="SegDataPreProcessor", size=(64, 96))
    for neck in ({}, {"neck": None}):
        model = build(
            dict(
                type="EncoderDecoder",
                data_preprocessor=preprocessor,
                backbone=backbone,
                decode_head=head,
                train_cfg={},
                test_cfg=dict(mode="whole"),
                **neck,
            )
        )
        model.init_weights()
        images = torch.randn(2, 3, 64, 96)
        labels = torch.randint(0, 5, (2, 1, 64, 96))
        samples = [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels]
        loss = model.loss(images, samples)["decode.loss_ce"]
        loss.backward()
        assert model.backbone.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
        with torch.no_grad():
            assert model.eval()(images, mode="tensor").shape == (2, 5, 16, 24)


# ------------------------------------------------------------------- timm backbones in detectors

LITE0 = dict(
    type="fpn_neck.TimmBackbone",
    model_name="tf_efficientnet_lite0",
    norm_eval=True,
    frozen_levels=2,
)


@pytest.mark.parametrize("in_one", [False, True], ids=["two parts", "in one"])
@pytest.mark.parametrize(
    "name",
    ["retinanet/retinanet_r50_fpn_1x_coco.py", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"],
    ids=["retinanet", "faster-rcnn"],
)
def test_a_timm_backbone_takes_a_step_and_predicts(name, in_one):
    """``norm_eval`` and ``frozen_levels`` hold through the detector's own train()."""
    build = mm("mmdet").build
    from mmdet.testing._utils import demo_mm_inputs
    from mmengine.optim import OptimWrapper

    from fpn_neck.mm.config.load import load_config

    model = load_config(f"mmdet::{name}").model
    options = {k: v for k, v in model.neck.items() if k not in ("type", "in_channels")}
    if in_one:
        model.backbone = dict(type="fpn_neck.PyramidBackbone", backbone=LITE0, neck=options)
        model.neck = None
    else:
        model.backbone = LITE0
        model.neck.update(type="fpn_neck.FPN", in_channels=[24, 40, 112, 320])
    detector = build(model)
    detector.init_weights()
    timm = detector.backbone.backbone if in_one else detector.backbone
    before = {n: t.clone() for n, t in timm.state_dict().items()}

    data = demo_mm_inputs(2, (3, 96, 128), [3, 2], 80)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.01)
    losses = detector.train().train_step(data, OptimWrapper(optimizer, clip_grad=dict(max_norm=1)))
    assert losses["loss"].isfinite()
    moved = {n for n, t in timm.state_dict().items() if not torch.equal(t, before[n])}
    frozen = {n for n, p in timm.named_parameters() if not p.requires_grad}
    buffers = {n for n, _ in timm.named_buffers()}
    trainable = set(before) - frozen - buffers
    assert frozen and not moved & (frozen | buffers)
    assert len(moved) > 0.9 * len(trainable)

    with torch.no_grad():
        samples = detector.eval().test_step(demo_mm_inputs(1, (3, 90, 110), [1], 80))
    boxes = samples[0].pred_instances
    assert boxes.bboxes.shape == (len(boxes.scores), 4)
    assert boxes.bboxes.isfinite().all() and len(boxes.scores) <= 100
