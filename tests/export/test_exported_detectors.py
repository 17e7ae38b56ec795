"""Exported detectors give the framework's boxes, scores, labels and masks, at any size."""

import numpy as np
import pytest
import torch
from torch import nn

for _package in ("onnx", "onnxruntime", "mmdet", "mmcv", "torchvision"):
    pytest.importorskip(_package)

import fpn_neck  # noqa: E402, F401 (mmdet finds mmcv's operators)

pytest.importorskip("mmdet.models")

from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from torchvision.models import ResNet, detection  # noqa: E402
from torchvision.models.resnet import BasicBlock  # noqa: E402

from fpn_neck.export.graphs import torchvision_detector  # noqa: E402
from fpn_neck.export.metadata import Metadata  # noqa: E402
from fpn_neck.export.parity import picture  # noqa: E402
from fpn_neck.export.runtime import ExportedModel, open_session, paste  # noqa: E402
from fpn_neck.export.write import export  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.det.export import exportable  # noqa: E402
from fpn_neck.models.torchvision_backbone import P2_TO_P6, P3_TO_P7, FPNBackbone  # noqa: E402

SIZE = (96, 128)
CONFIGS = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "faster-rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mask-rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "rpn": "rpn/rpn_r50_fpn_1x_coco.py",
    "gfl": "gfl/gfl_r50_fpn_1x_coco.py",
    "cascade": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    "panoptic": "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
}
SMALL = {
    "model.backbone.depth": 18,
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck.in_channels": [8, 16, 32, 64],
    "model.neck.type": "fpn_neck.FPN",
    "test_dataloader.dataset.pipeline.1.scale": SIZE[::-1],
}
DENSE = {
    "model.neck.out_channels": 32,
    "model.bbox_head.in_channels": 32,
    "model.bbox_head.feat_channels": 32,
}
TWO_STAGE = {
    "model.neck.out_channels": 32,
    "model.rpn_head.in_channels": 32,
    "model.rpn_head.feat_channels": 32,
    "model.roi_head.bbox_roi_extractor.out_channels": 32,
    "model.roi_head.bbox_head.in_channels": 32,
    "model.roi_head.bbox_head.fc_out_channels": 64,
}
NARROW = {
    "retinanet": DENSE,
    "fcos": DENSE | {"model.bbox_head.feat_channels": 64},  # GN of 32 groups on one cell
    "faster-rcnn": TWO_STAGE,
    "mask-rcnn": TWO_STAGE
    | {
        "model.roi_head.mask_roi_extractor.out_channels": 32,
        "model.roi_head.mask_head.in_channels": 32,
        "model.roi_head.mask_head.conv_out_channels": 32,
    },
}
CLASSES = tuple(f"class {i}" for i in range(80))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A stock config on our neck, and random weights with which classes differ."""

    def make(name, **options):
        cfg = load_config(f"mmdet::{CONFIGS[name]}", {**SMALL, **NARROW.get(name, {}), **options})
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmdet"):
            model = MODELS.build(cfg.model)
        for key, weight in model.named_parameters():
            if key.endswith(("retina_cls.weight", "conv_cls.weight")):
                nn.init.normal_(weight, std=0.5)
            if key.endswith("fc_cls.weight"):
                nn.init.normal_(weight, std=20.0)
            if key.endswith("mask_head.conv_logits.weight"):
                nn.init.normal_(weight, std=1.0)
        path = tmp_path_factory.mktemp("weights") / "model.pth"
        meta = {"dataset_meta": {"classes": CLASSES}}
        torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
        return cfg, str(path)

    return make


@pytest.mark.parametrize(
    "name",
    [
        "retinanet",
        "fcos",
        "faster-rcnn",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mask-rcnn", "rpn")),
    ],
)
def test_a_detector_of_mmdet(trained, tmp_path, name):
    """The reference is mmdet's own prediction; sizes that are no multiple of 32 are padded."""
    made = exportable(*trained(name)).with_preprocessing()
    parity = export(made, tmp_path / "model.onnx", SIZE, dynamic=True)
    assert parity.boxes > 100 and len(set(parity.sizes)) == 4
    assert made.outputs == ("boxes", "scores", "labels") + ("masks",) * (name == "mask-rcnn")


def test_an_rpn_that_is_sure_of_the_background_gives_the_same_boxes(trained, tmp_path):
    """ONNX Runtime's sigmoid is 0 below -18, and many anchors would have one score."""
    cfg, path = trained("faster-rcnn")
    content = torch.load(path, weights_only=False)
    weights = content["state_dict"]
    nn.init.normal_(weights["rpn_head.rpn_cls.weight"], std=0.5)
    weights["rpn_head.rpn_cls.bias"].fill_(-25)
    torch.save(content, path)
    made = exportable(cfg, path).with_preprocessing()
    export(made, tmp_path / "model.onnx", SIZE, dynamic=True)
    images = picture(Metadata("detection", preprocess=True), 1, *SIZE)
    expected = made.reference(images)
    session = open_session(tmp_path / "model.onnx")
    found = session.run(None, {"images": images.numpy()})
    assert len(expected[0]) == len(found[0]) > 50
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=0.02)


def test_boxes_and_masks_on_a_photo_are_those_of_predict(trained, tmp_path):
    from PIL import Image

    from fpn_neck.mm.det.predictor import DetectionPredictor

    cfg, checkpoint = trained("faster-rcnn")
    export(exportable(cfg, checkpoint), tmp_path / "model.onnx", SIZE, dynamic=True)
    pixels = picture(Metadata("detection", preprocess=True), 1, *SIZE)[0].numpy()
    Image.fromarray(pixels.repeat(2, 0).repeat(2, 1)).save(tmp_path / "photo.png")
    expected = DetectionPredictor(cfg, checkpoint)(tmp_path / "photo.png")
    (result,) = ExportedModel(tmp_path / "model.onnx").predict([tmp_path / "photo.png"])
    assert result.image.shape == (192, 256, 3)
    assert (
        abs(len(result.boxes) - len(expected.boxes)) <= 2 < len(expected.boxes)
    )  # at the threshold
    best = result.boxes[0] - expected.boxes[0]
    assert np.abs(best).max() < 1 and result.boxes.max() > SIZE[1]
    assert result.class_ids[0] == expected.class_ids[0]


def test_masks_are_pasted_as_in_mmdet():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    masks, boxes = torch.rand(5, 1, 28, 28), 50 * torch.rand(5, 4) - 5
    boxes[:, 2:] += boxes[:, :2] + 3
    expected = _do_paste_mask(masks, boxes, 60, 70, skip_empty=False)[0] >= 0.5
    found = paste(masks[:, 0].numpy(), boxes.numpy(), (60, 70), 0.5)
    assert found.any() and np.array_equal(found, expected.numpy())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gfl", {}, "GFLHead has its own _predict_by_feat_single"),
        ("cascade", {}, "CascadeRoIHead"),
        ("panoptic", {"model.neck.type": "FPN"}, "PanopticFPN"),
        ("retinanet", {"model.test_cfg.nms.type": "soft_nms"}, "NonMaxSuppression"),
    ],
)
def test_what_no_operators_are_known_for_is_named(trained, name, options, words):
    with pytest.raises(ValueError, match=f"{words}.*--features"):
        exportable(*trained(name, **options))


def test_torch_export_takes_no_detectors(trained, tmp_path):
    made = exportable(*trained("retinanet"))
    with pytest.raises(ValueError, match="NonMaxSuppression"):
        export(made, tmp_path / "model.pt2", SIZE, format="torch-export")


# ------------------------------------------------------------------------------------- torchvision


def tiny_resnet():
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.inplanes = 512
    return model


def torchvisions(name):
    """A small one of random weights that finds something."""
    torch.manual_seed(0)
    levels = P2_TO_P6 if name.endswith("RCNN") else P3_TO_P7
    width = 64 if name == "FCOS" else 32  # GN of 32 groups on one cell
    backbone = FPNBackbone(tiny_resnet(), neck=levels | {"out_channels": width})
    model = getattr(detection, name)(backbone, 4, min_size=SIZE[0], max_size=SIZE[1])
    for key, weight in model.named_parameters():
        if key.endswith("cls_score.weight"):
            nn.init.normal_(weight, std=0.1)
        if key.endswith("cls_logits.weight"):
            # Scores far apart: rounding decides which of equal ones are among the first 1000.
            nn.init.normal_(weight, std=0.3 if name == "FCOS" else 300)
        if key.endswith("cls_logits.bias"):  # it starts at probabilities of 1 %
            nn.init.zeros_(weight)
    return torchvision_detector(model, ["background", "a", "b", "c"]).with_preprocessing()


@pytest.mark.parametrize(
    "name",
    [
        "FasterRCNN",
        "RetinaNet",
        pytest.param("FCOS", marks=pytest.mark.slow),
        pytest.param("MaskRCNN", marks=pytest.mark.slow),
    ],
)
def test_a_detector_of_torchvision(tmp_path, name):
    """The file holds its normalisation; photos are resized before."""
    made = torchvisions(name)
    parity = export(made, tmp_path / "model.onnx", SIZE, dynamic=True)
    assert len(set(parity.sizes)) == 4 and any(n % 2 for n in parity.sizes[1])
    assert parity.boxes > 20 and made.metadata.fit == (128, 96)
    assert ("masks" in made.outputs) == (name == "MaskRCNN")


@pytest.mark.parametrize("name", ["FasterRCNN", "RetinaNet"])
def test_a_detector_of_torchvision_needs_a_name_for_each_label(name):
    """The background too, which is easily forgotten."""
    model = getattr(detection, name)(FPNBackbone(tiny_resnet(), neck=P3_TO_P7), 4)
    with pytest.raises(ValueError, match="the model has 4 labels, one name each"):
        torchvision_detector(model, ["a", "b", "c"])
    assert torchvision_detector(model, list("0abc")).metadata.classes[0] == "__background__"


def test_a_fixed_size_of_torchvision_is_that_of_the_file():
    options = dict(min_size=128, max_size=192, fixed_size=(160, 96))  # (width, height)
    model = detection.FasterRCNN(FPNBackbone(tiny_resnet()), 4, **options)
    metadata = torchvision_detector(model, list("0abc")).metadata
    model.eval()
    assert metadata.fit is None and metadata.resized(200, 300) == (96, 160)
    assert tuple(model.transform.resize(torch.rand(3, 200, 300))[0].shape[1:]) == (96, 160)


# ---------------------------------------------------------------------------------------- OpenVINO


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "faster-rcnn", "FasterRCNN"])
def test_openvino_runs_a_detector_at_any_size(trained, tmp_path, name):
    """mmdet's by their configs' names, torchvision's by their classes'."""
    pytest.importorskip("openvino", reason="pip install openvino")
    made = exportable(*trained(name)) if name in CONFIGS else torchvisions(name)
    parity = export(made, tmp_path / "model.xml", SIZE, format="openvino", dynamic=True)
    assert parity.boxes > 20 and len(set(parity.sizes)) == 4
