"""Exported segmenters give the model's logits and labels, at any size, and say what they are."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

for _package in ("onnx", "onnxruntime", "mmseg"):
    pytest.importorskip(_package)

from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from fpn_neck import Segmenter  # noqa: E402
from fpn_neck.export.graphs import features, segmenter  # noqa: E402
from fpn_neck.export.metadata import Metadata  # noqa: E402
from fpn_neck.export.parity import ParityError, compare, picture  # noqa: E402
from fpn_neck.export.runtime import ExportedModel, resize  # noqa: E402
from fpn_neck.export.write import FORMATS, OPSET, export, onnx_run  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.models.pyramid_backbone import PyramidBackbone  # noqa: E402

CONFIG = """
default_scope = 'mmseg'
norm = dict(type='BN')
model = dict(
    type='EncoderDecoder', test_cfg=dict(mode='whole'),
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123., 116., 103.], std=[58., 57., 57.], bgr_to_rgb=True),
    backbone=dict(
        type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
    neck=dict(type='fpn_neck.FPN', in_channels=[8, 16, 32, 64], out_channels=8),
    decode_head=dict(
        type='fpn_neck.FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32], channels=8, norm_cfg=norm, num_classes=3))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', pipeline=pipeline, metainfo=dict(
        classes=('a', 'b', 'c'), palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]])))
"""
BINARY = {
    "model.decode_head.num_classes": 2,
    "model.decode_head.out_channels": 1,
    "model.decode_head.threshold": 0.3,
    "model.decode_head.loss_decode": dict(type="CrossEntropyLoss", use_sigmoid=True),
    "test_dataloader.dataset.metainfo": dict(classes=("a", "b"), palette=[[0, 0, 0], [255, 0, 0]]),
}
CASES = {
    "softmax": {},
    "one logit": BINARY,
    "align_corners": {"model.decode_head.align_corners": True},
    "cat": {"model.decode_head.merge": "cat"},
    "BGR": {"model.data_preprocessor.bgr_to_rgb": False},
}


@pytest.fixture(scope="module")
def trained(write_config, tmp_path_factory):
    """Config and random weights that give every label."""

    def make(case):
        config = write_config(case.replace(" ", "_"), CONFIG)
        cfg = load_config(str(config), CASES[case])
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = MODELS.build(cfg.model)
        images = picture(Metadata("features", (120.0,) * 3, (60.0,) * 3), 1, 64, 96)
        with torch.no_grad():  # every class is the most probable one somewhere
            logits = model.eval().decode_head(model.extract_feat(images))
            classifier, spread = model.decode_head.conv_seg, logits.std((0, 2, 3)) / 3
            classifier.weight /= spread[:, None, None, None]
            classifier.bias.copy_((classifier.bias - logits.mean((0, 2, 3))) / spread)
        path = tmp_path_factory.mktemp("weights") / "model.pth"
        torch.save(model.state_dict(), path)
        return cfg, str(path)

    return make


@pytest.mark.parametrize("labels", [False, True], ids=["logits", "labels"])
@pytest.mark.parametrize("case", CASES)
def test_a_segmenter_of_mmseg(trained, tmp_path, case, labels):
    from fpn_neck.mm.seg.export import exportable

    made = exportable(*trained(case), labels=labels)
    if labels:
        made = made.with_preprocessing()
    parity = export(made, tmp_path / "model.onnx", (64, 96), dynamic=True)
    sizes = parity.sizes
    assert len(set(sizes)) == 4 and sizes[0] == (64, 96) and all(n % 2 for n in sizes[1])
    assert parity.difference <= (1e-4 if labels else 1e-5)
    found = made.reference(picture(made.metadata, 1, 64, 96))[0]
    assert len(found.unique()) > 1


@pytest.mark.parametrize("case", ["softmax", "align_corners", "BGR"])
def test_labels_on_a_photo_are_those_of_predict(trained, tmp_path, case):
    """The file prepares the photo as the config's pipeline does; most labels are equal."""
    from fpn_neck.mm.seg.export import exportable
    from fpn_neck.mm.seg.predictor import SegmentationPredictor

    cfg, checkpoint = trained(case)
    made = exportable(cfg, checkpoint, labels=False)
    export(made, tmp_path / "model.onnx", (64, 96), dynamic=True)
    photo = write_photo(tmp_path / "photo.png", 131, 90)
    expected = np.asarray(SegmentationPredictor(cfg, checkpoint)(photo).labels)
    model = ExportedModel(tmp_path / "model.onnx")
    (result,) = model.predict([photo])
    assert result.labels.shape == expected.shape == (131, 90)
    assert len(np.unique(expected)) > 1
    assert (result.labels == expected).mean() > 0.99  # OpenCV rounds pixels in its own way
    assert result.classes == tuple(cfg.test_dataloader.dataset.metainfo.classes)


def write_photo(path, height, width):
    from PIL import Image

    pixels = picture(Metadata("segmentation", preprocess=True), 1, height, width)[0]
    Image.fromarray(pixels.numpy()).save(path)
    return path


class Pyramid(nn.Module):
    out_channels, strides = (4, 6, 8, 10), (4, 8, 16, 32)

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Conv2d(3, c, 1, stride=s)
            for c, s in zip(self.out_channels, self.strides, strict=True)
        )

    def forward(self, images):
        return [level(images) for level in self.levels]


def plain_segmenter():
    torch.manual_seed(0)
    model = Segmenter(Pyramid(), 5, neck={"out_channels": 16}, head={"channels": 32})
    nn.init.normal_(model.head.conv_seg.weight)
    return model


NAMES = Metadata("segmentation", classes=tuple("abcde"), palette=((0, 0, 0),) * 5)


@pytest.mark.parametrize("labels", [False, True], ids=["logits", "labels"])
def test_a_segmenter_of_torch(tmp_path, labels):
    made = segmenter(plain_segmenter(), NAMES, labels=labels)
    assert export(made, tmp_path / "model.onnx", (75, 99), dynamic=True).difference <= 1e-4


def test_a_segmenter_without_facts_is_exported_as_it_is_saved(tmp_path):
    model = plain_segmenter()
    made = segmenter(model).metadata
    model.save_pretrained(tmp_path)
    assert made.classes == tuple("01234") and made.mean == model.facts.mean != (0, 0, 0)
    assert made == segmenter(model).metadata


def test_names_that_the_metadata_leave_out_are_the_models():
    metadata = segmenter(plain_segmenter(), Metadata("segmentation", mean=(1.0, 2.0, 3.0))).metadata
    assert metadata.classes == tuple("01234") and metadata.mean == (1, 2, 3)


def test_another_number_of_names_is_refused():
    with pytest.raises(ValueError, match="the model has 5 labels, one name each"):
        segmenter(plain_segmenter(), Metadata("segmentation", classes=tuple("abcd")))


def test_the_verb_exports_a_segmenters_folder(tmp_path, call_tool, assert_refused):
    pytest.importorskip("timm")
    import fpn_neck

    model = Segmenter("resnet10t", 3, neck={"out_channels": 8}, head={"channels": 32}).eval()
    nn.init.normal_(model.head.conv_seg.weight, std=3.0)
    palette = [[0, 0, 255], [255, 0, 0], [0, 200, 0]]
    model.save_pretrained(
        tmp_path / "model", classes=["a", "b", "c"], palette=palette, fit=(96, 64)
    )
    out = tmp_path / "model.onnx"
    done = call_tool("export", tmp_path / "model", "--out", out, "--dynamic")
    assert done.returncode == 0, done.stderr
    photo = picture(Metadata("segmentation", preprocess=True), 1, 110, 150)[0].numpy()
    expected, found = (
        m(photo) for m in (fpn_neck.load(tmp_path / "model", device="cpu"), ExportedModel(out))
    )
    assert len(np.unique(expected.labels)) > 1
    assert (found.labels == expected.labels).mean() > 0.999
    assert found.classes == ("a", "b", "c") and [list(c) for c in found.palette] == palette
    refused = call_tool("export", tmp_path / "model", "--out", out, "--features")
    assert_refused(refused, "leave out --features, --cfg-options")


@pytest.mark.parametrize("size", [(480, 320), (25, 35), (300, 200), (823, 547)])
def test_photos_are_resized_as_by_opencv(size):
    """OpenCV's steps depend on the processor: at some sizes a few values differ by one."""
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (825, 550, 3), dtype=np.uint8)
    expected = cv2.resize(pixels, size[::-1]).astype(int)
    differences = np.abs(resize(pixels, size) - expected)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01


def test_a_backbone_and_its_neck(tmp_path):
    torch.manual_seed(0)
    made = features(PyramidBackbone(Pyramid(), {"out_channels": 16, "num_outs": 5}))
    assert made.outputs == ("p2", "p3", "p4", "p5", "p6")
    assert export(made, tmp_path / "model.onnx", (75, 99), dynamic=True).difference <= 1e-5
    with pytest.raises(ValueError, match="feature maps"):
        ExportedModel(tmp_path / "model.onnx")


def test_operators_are_those_of_onnx_and_resizes_go_to_sizes(tmp_path):
    import onnx

    made = segmenter(plain_segmenter(), NAMES, labels=True)
    export(made, tmp_path / "model.onnx", (75, 99), dynamic=True)
    model = onnx.load(tmp_path / "model.onnx")
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == ("", OPSET) and OPSET >= 17
    assert {node.domain for node in model.graph.node} == {""}
    assert any(node.op_type == "Resize" and len(node.input) == 4 for node in model.graph.node)


@pytest.mark.filterwarnings("error")
def test_the_model_stays_in_training_and_sure_pixels_do_not_warn(tmp_path):
    model = Segmenter(Pyramid(), 1, neck={"out_channels": 8}, head={"channels": 32}).train()
    with torch.no_grad():
        model.head.conv_seg.bias -= 100
    export(segmenter(model), tmp_path / "model.onnx", (64, 96))
    assert all(part.training for part in model.modules())
    photo = write_photo(tmp_path / "photo.png", 64, 96)
    (found,) = ExportedModel(str(tmp_path / "model.onnx")).predict([photo])
    assert not found.labels.any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_outputs_are_compared_relative_to_their_largest_value(scale):
    one = segmenter(plain_segmenter(), NAMES)
    made = replace(one, reference=lambda x: [scale * y for y in one.reference(x)])

    def run(images, error):
        (logits,) = made.reference(torch.from_numpy(images))
        return [(logits + error * logits.abs().max()).numpy()]

    with torch.no_grad():
        assert compare(partial(run, error=5e-5), made, (64, 96), dynamic=False).difference > 0
        with pytest.raises(ParityError, match=r"differ by 0\.00"):
            compare(partial(run, error=1e-3), made, (64, 96), dynamic=False)


def test_fixed_sizes_are_fixed(tmp_path):
    made = segmenter(plain_segmenter(), NAMES)
    parity = export(made, tmp_path / "model.onnx", (64, 96))
    assert parity.sizes == [(64, 96)]
    run = onnx_run(tmp_path / "model.onnx")
    with pytest.raises(Exception, match="dimensions|Dimension"):
        run(np.zeros((1, 3, 64, 128), np.float32))
    photo = write_photo(tmp_path / "photo.png", 64, 128)
    with pytest.raises(ValueError, match="64x96.*64x128.*--dynamic"):
        ExportedModel(str(tmp_path / "model.onnx")).predict([photo])


class Branches(nn.Module):
    """Gives other numbers for large images: a trace keeps one way."""

    out_channels = (3,)

    def forward(self, images):
        return [images * 2 if images.shape[-1] > 100 else images]


class Unknown(nn.Module):
    """ONNX has no Bessel function, and torch.export takes no branch by what is in a map."""

    out_channels = (3,)

    def forward(self, images):
        return [torch.special.bessel_j0(images) if images.sum() > 0 else images.abs()]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_what_a_format_cannot_express_is_one_line(tmp_path, format):
    path = tmp_path / f"model{FORMATS[format]}"
    words = f"^{format} can't express this model: [^\n]*; try another format[^\n]*$"
    with pytest.raises(ValueError, match=words):
        export(features(Unknown()), path, (64, 64), format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_the_model_does_not_stay(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ParityError, match="at 65x113 px: p2 differ"):
        export(features(Branches()), path, (86, 98), dynamic=True)
    assert list(tmp_path.iterdir()) == []
    path.write_text("an earlier one")
    with pytest.raises(ParityError):
        export(features(Branches()), path, (86, 98), dynamic=True)
    assert path.read_text() == "an earlier one"


def test_another_file_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ValueError, match="text.onnx: ONNX Runtime can't read it"):
        ExportedModel(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="no.onnx"):
        ExportedModel(tmp_path / "no.onnx")
    torch.onnx.export(Branches(), torch.ones(1, 3, 8, 8), tmp_path / "other.onnx", dynamo=False)
    with pytest.raises(ValueError, match="not written by fpn-neck export"):
        ExportedModel(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "model.pt2"), ("openvino", "model.onnx"), ("tensorrt", "model")]
)
def test_a_format_has_its_suffix(tmp_path, format, name):
    with pytest.raises(ValueError, match="FILE.onnx for onnx"):
        export(features(Branches()), tmp_path / name, (64, 64), format=format)


@pytest.mark.parametrize("labels", [True, False])
def test_torch_export(tmp_path, labels):
    path = tmp_path / "model.pt2"
    made = segmenter(plain_segmenter(), NAMES, labels=labels)
    export(made, path, (75, 99), format="torch-export", dynamic=labels)
    extra = {"fpn_neck": ""}
    torch.export.load(path, extra_files=extra)
    text = extra["fpn_neck"]
    assert Metadata.from_json(text if isinstance(text, str) else text.decode()) == made.metadata


def test_openvino(tmp_path):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    made = segmenter(plain_segmenter(), NAMES)
    export(made, tmp_path / "model.xml", (75, 99), format="openvino", dynamic=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    text = openvino.Core().read_model(tmp_path / "model.xml").get_rt_info("fpn_neck").astype(str)
    assert Metadata.from_json(text) == made.metadata


def test_metadata_of_another_schema_is_refused():
    text = NAMES.to_json()
    assert Metadata.from_json(text) == NAMES
    with pytest.raises(ValueError, match="schema 2, expected 1"):
        Metadata.from_json(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="schema"):
        Metadata.from_json('{"kind": "segmentation"}')
    with pytest.raises(ValueError, match="kind 'other', expected one of segmentation"):
        Metadata.from_json('{"schema": 1, "kind": "other"}')
    with pytest.raises(ValueError, match="unknown entries a, b"):
        Metadata.from_json('{"schema": 1, "kind": "segmentation", "b": 0, "a": 0}')


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model.test_cfg.mode": "slide"}, "mode='slide'"),
        ({"model.data_preprocessor.test_cfg": dict(size_divisor=32)}, "pads photos"),
        ({"test_dataloader.dataset.pipeline.0.color_type": "grayscale"}, "grayscale"),
        ({"test_dataloader.dataset.pipeline.1": dict(type="Pad", size=(9, 9))}, "Pad"),
    ],
)
def test_what_a_file_does_not_hold_is_refused(trained, options, words):
    from fpn_neck.mm.seg.export import exportable

    cfg, checkpoint = trained("softmax")
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=words):
        exportable(cfg, checkpoint, labels=False)


def test_the_runtime_needs_no_torch(tmp_path, run_python):
    made = segmenter(plain_segmenter(), NAMES)
    export(made, tmp_path / "model.onnx", (64, 96), dynamic=True)
    photo = write_photo(tmp_path / "photo.png", 70, 90)
    out = run_python(f"""
import sys
from pathlib import Path
from fpn_neck.export.runtime import ExportedModel
(result,) = ExportedModel(Path({str(tmp_path / "model.onnx")!r})).predict([Path({str(photo)!r})])
print(result.labels.shape, 'torch' in sys.modules)
""")
    assert out.split("\n")[0] == "(70, 90) False"
    assert Path(photo).is_file()
