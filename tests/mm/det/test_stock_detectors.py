"""mmdet's own configs with ``--cfg-options model.neck.type=fpn_neck.FPN`` and nothing else.

Every config of the folders below is read from the installed package; its stock neck and ours are
compared on copied weights. Then one whole detector of each kind is trained and run beside the stock
one: same weights file, same losses, same predictions.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

for _package in ("mmdet", "mmcv"):
    pytest.importorskip(_package)

import fpn_neck  # noqa: E402

pytest.importorskip("mmdet.models")  # importable through fpn_neck

from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing._utils import demo_mm_inputs  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402

FOLDERS = "rpn fast_rcnn faster_rcnn mask_rcnn cascade_rcnn retinanet fcos atss gfl panoptic_fpn"
CONFIGS = Path(find_spec("mmdet").submodule_search_locations[0]) / ".mim/configs"
STOCK = sorted(
    f"{folder}/{path.name}"
    for folder in FOLDERS.split()
    for path in (CONFIGS / folder).glob("*.py")
)
WITHOUT_NECK = {
    "rpn/rpn_r50-caffe-c4_1x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe-dc5_ms-1x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe-dc5_ms-3x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
    "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
    "retinanet/retinanet_tta.py",  # no model
}
SWAP = {"model.neck.type": "fpn_neck.FPN"}
SIZES = [(37, 51), (19, 26), (10, 13), (5, 7)]  # odd ones among them
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def mmdets_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def stock(name, options=None):
    """A config of the package, as the tools read it, with the options of the command line."""
    cfg = load_config(f"mmdet::{name}")
    cfg.merge_from_dict(options or {})
    return cfg


# ------------------------------------------------------------------------ the neck of each config


def assert_same_pyramid(ours, theirs, num_outs):
    assert len(ours) == len(theirs) == num_outs
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        scale = b.abs().max().item()
        assert scale > 0.1
        torch.testing.assert_close(
            a, b, atol=TOLERANCE * scale, rtol=0, msg=lambda m, i=i: f"level {i}: {m}"
        )


compared = set()  # necks; most of the configs share one


@pytest.mark.parametrize("name", STOCK)
def test_the_pyramid_is_that_of_the_stock_config(name, shake):
    """Every output of the pyramid, to 1e-5 of its largest value."""
    neck = stock(name).get("model", {}).get("neck")
    assert (neck is None) == (name in WITHOUT_NECK)
    if neck is None or repr(neck) in compared:
        return
    theirs, ours = MODELS.build(neck), MODELS.build(stock(name, SWAP).model.neck)
    assert neck.type == "FPN" and type(theirs).__module__.startswith("mmdet.")
    assert type(ours) is fpn_neck.FPN
    maps = [torch.randn(1, c, *size) for c, size in zip(neck.in_channels, SIZES, strict=True)]
    shake(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_pyramid(ours(maps), theirs(maps), neck.num_outs)
    compared.add(repr(neck))


def test_the_configs_are_there():
    assert len(STOCK) - len(WITHOUT_NECK) >= 160
    assert set(STOCK) >= WITHOUT_NECK
    kinds = {name.split("/")[0] for name in set(STOCK) - WITHOUT_NECK}
    assert kinds == set(FOLDERS.split())


def test_a_neck_in_a_list_is_named_by_its_index():
    name = "libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py"
    theirs = MODELS.build(stock(name).model.neck)
    ours = MODELS.build(stock(name, {"model.neck.0.type": "fpn_neck.FPN"}).model.neck)
    assert type(ours[0]) is fpn_neck.FPN
    ours.load_state_dict(theirs.state_dict(), strict=True)
    maps = [torch.randn(1, c, *size) for c, size in zip((256, 512, 1024, 2048), SIZES, strict=True)]
    with torch.no_grad():
        assert_same_pyramid(ours(maps), theirs(maps), 5)


# ---------------------------------------------------------------------------- whole detectors

SMALL = {"model.backbone.depth": 18, "model.neck.in_channels": [64, 128, 256, 512]}
SWAPPED = {"neck", "semantic_head"}
PANOPTIC = {"model.semantic_head.type": "fpn_neck.PanopticFPNHead"}
CLASSES, STUFF = 80, 53


def detector(name, options):
    """Without ``init_weights``, which would fetch the backbone's."""
    return MODELS.build(stock(name, options).model)


@torch.no_grad()
def draw_classifiers(model):
    """Scores that differ; as drawn, all 81 are about equal and below mmdet's thresholds."""
    for name, weight in model.named_parameters():
        if name.endswith("fc_cls.weight"):
            weight.normal_(std=0.3)


def batch():
    """Two images with boxes, masks, proposals and labels of every kind, ignored ones included."""
    data = demo_mm_inputs(2, (3, 96, 128), [4, 7], CLASSES, with_mask=True, with_semantic=True)
    generator = torch.Generator().manual_seed(1)
    for sample in data["data_samples"]:
        corners = torch.rand(40, 2, 2, generator=generator).sort(1).values  # (low, high) x (x, y)
        boxes = (corners * torch.tensor([128.0, 96.0])).flatten(1)
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(40))
        labels = torch.randint(0, CLASSES + STUFF, (1, 96, 128), generator=generator)
        labels[:, :10] = 255
        sample.gt_sem_seg.sem_seg = labels.to(torch.uint8)
    return data


def without_proposals(data):
    for sample in data["data_samples"]:
        del sample.proposals
    return data


def tensors_of(value, name=""):
    """Every tensor of nested losses or samples under its path."""
    if hasattr(value, "items") and not isinstance(value, torch.Tensor):
        value = dict(value.items())
    elif isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return {k: t for n, v in value.items() for k, t in tensors_of(v, f"{name}.{n}").items()}
    return {name: value} if isinstance(value, torch.Tensor) else {}


def losses_of(model, data):
    torch.manual_seed(7)
    model.train()
    data = model.data_preprocessor(data, training=True)
    return tensors_of(model.loss(data["inputs"], data["data_samples"]))


@torch.no_grad()
def predictions_of(model, data):
    samples = model.eval().test_step(data)
    found = ("pred_instances", "pred_panoptic_seg")
    return tensors_of([{n: s.get(n) for n in found if n in s} for s in samples])


def assert_same(ours, theirs, **tolerance):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, **tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


slow = pytest.mark.slow
KINDS = [
    pytest.param("rpn/rpn_r50_fpn_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", {}, "bboxes"),
    pytest.param("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", {}, "masks", marks=slow),
    pytest.param("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("retinanet/retinanet_r50_fpn_1x_coco.py", {}, "bboxes"),
    pytest.param("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("atss/atss_r50_fpn_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("gfl/gfl_r50_fpn_1x_coco.py", {}, "bboxes", marks=slow),
    pytest.param("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", PANOPTIC, "sem_seg"),
]


@pytest.fixture
def torchs_operators():
    with fpn_neck.fast.enable(False):
        yield


@pytest.mark.parametrize(("name", "options", "output"), KINDS)
def test_the_same_weights_losses_and_predictions(
    name, options, output, shake, torchs_operators, tmp_path
):
    """A stock detector's file loads strictly; losses to 1e-5 relative, predictions to 1e-5.

    By torch's operators: the rounding of Winograd's 3x3 can change which boxes are sampled.
    """
    theirs = detector(name, SMALL)
    for part in SWAPPED & set(dict(theirs.named_children())):
        shake(getattr(theirs, part))
    draw_classifiers(theirs)
    torch.save(theirs.state_dict(), tmp_path / "published.pth")

    ours = detector(name, SMALL | SWAP | options)
    assert type(ours.neck) is fpn_neck.FPN is not type(theirs.neck)
    state = torch.load(tmp_path / "published.pth", weights_only=True)
    ours.load_state_dict(state, strict=True)

    data = batch if name.startswith("fast_rcnn") else lambda: without_proposals(batch())
    a, b = losses_of(ours, data()), losses_of(theirs, data())
    assert any("loss" in n for n in b) and all(t.isfinite().all() for t in b.values())
    assert_same(a, b, atol=0, rtol=1e-5)

    theirs.load_state_dict(state, strict=True)  # training moved the batch norms' statistics
    ours.load_state_dict(state, strict=True)
    a, b = predictions_of(ours, data()), predictions_of(theirs, data())
    of_interest = [t for n, t in b.items() if n.endswith(f".{output}")]
    assert len(of_interest) == 2 and all(t.float().std() > 0 for t in of_interest)
    assert all(t.std() > 1e-3 for n, t in b.items() if n.endswith(".scores"))
    assert_same(a, b, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py",
        "legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py",
    ],
)
def test_a_folder_that_mmengines_pattern_leaves_out_is_read(name):
    assert load_config(f"mmdet::{name}").model.backbone.type == "ResNet"
    with pytest.raises(FileNotFoundError, match="mmdet::gn.*no such file"):
        load_config("mmdet::gn+ws/none.py")
