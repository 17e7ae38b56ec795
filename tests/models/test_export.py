"""torch.export and both ONNX exporters: batch and sizes are free, also odd ones."""

import io

import pytest
import torch
from torch import nn

from fpn_neck import FPN, CrossEntropyLoss, DiceLoss, SegHead, Segmenter

Dim = torch.export.Dim
SIZES = [(96, 70), (101, 77), (66, 131)]  # px; torch.export fixes whether a map is one cell wide
NECK = {"out_channels": 16}
HEAD = {"channels": 32}
TIMM = [
    "resnet18",
    "tf_efficientnet_lite0",  # pads by the image's size
    "convnext_atto",  # rounds down: images are padded
    "hrnet_w18_small",  # whole strides
]


class Pyramid(nn.Module):
    """A backbone of one strided convolution per level; level i has size ceil(image / stride)."""

    def __init__(self):
        super().__init__()
        self.out_channels, self.strides = (4, 6, 8, 10), (4, 8, 16, 32)
        self.levels = nn.ModuleList(
            nn.Conv2d(3, c, 1, stride=s)
            for c, s in zip(self.out_channels, self.strides, strict=True)
        )

    def forward(self, images):
        return [level(images) for level in self.levels]


class FromImages(nn.Module):
    """A backbone, the neck, and the head or not."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, images):
        return self.parts(images)


def model(kind):
    """A module of images (N, 3, H, W), with numbers that are not small."""
    torch.manual_seed(0)
    neck = FPN([4, 6, 8, 10], num_outs=5, **NECK)
    if kind == "neck":
        made = FromImages(Pyramid(), neck)
    elif kind in ("add", "cat"):
        head = SegHead([4, 6, 8, 10], 5, merge=kind, **HEAD)
        made = FromImages(Pyramid(), head)
    else:
        backbone = Pyramid() if kind == "segmenter" else kind
        if isinstance(backbone, str):
            pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")
        made = Segmenter(backbone, 5, neck=NECK, head=HEAD)
    for module in made.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 5:
            nn.init.normal_(module.weight)
    return made.eval()


KINDS = ["neck", "add", "cat", "segmenter"]


def images(size, batch):
    return torch.randn(batch, 3, *size)


def maps(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = b.abs().max()
        torch.testing.assert_close(a / scale, b / scale, atol=1e-5, rtol=0)


def check(run, module):
    for batch, size in enumerate(SIZES, 1):
        x = images(size, batch)
        with torch.no_grad():
            assert_same(run(x), maps(module(x)))


def named_dims(batch, h, w):
    return {0: Dim(batch, min=1), 2: Dim(h, min=65), 3: Dim(w, min=65)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dims", [{i: Dim.AUTO for i in (0, 2, 3)}, named_dims("n", "h", "w")])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_export(kind, dims, strict):
    module = model(kind)
    exported = torch.export.export(
        module, (images((75, 99), 2),), dynamic_shapes=(dims,), strict=strict
    ).module()
    check(lambda x: maps(exported(x)), module)


class Step(nn.Module):
    """Labels, or the loss for labels."""

    def __init__(self):
        super().__init__()
        self.model = model("segmenter")
        self.losses = nn.ModuleList([CrossEntropyLoss([1, 2, 3, 4, 5]), DiceLoss()])

    def forward(self, images, truth=None):
        if truth is None:
            return self.model.predict(images)
        return self.model.loss(images, truth, *self.losses)


@pytest.mark.parametrize("inputs", ["images", "images and truth"])
def test_torch_export_of_predict_and_of_the_loss(inputs):
    """Batch and sizes are free."""
    module, free = Step().eval(), {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}

    def batch(size, n):
        with_truth = inputs != "images"
        return images(size, n), *([torch.randint(5, (n, *size))] if with_truth else ())

    args = batch((75, 99), 2)
    dims = (free, {i: Dim.AUTO for i in range(3)})[: len(args)]
    exported = torch.export.export(module, args, dynamic_shapes=dims, strict=False).module()
    for n, size in enumerate(SIZES, 1):
        args = batch(size, n)
        torch.testing.assert_close(exported(*args), module(*args), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_torch_export_with_a_timm_model(name):
    module, dims, file = model(name), {i: Dim.AUTO for i in (0, 2, 3)}, io.BytesIO()
    program = torch.export.export(module, (images((75, 99), 2),), dynamic_shapes=(dims,))
    torch.export.save(program, file)
    file.seek(0)
    exported = torch.export.load(file).module()
    check(lambda x: maps(exported(x)), module)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_of_the_head_with_sizes_of_their_own(strict):
    """Every level's height and width is free: nothing ties them to each other."""
    torch.manual_seed(0)
    head = SegHead([4, 6, 8], 5, strides=(4, 8, 16), **HEAD).eval()

    def levels(sizes, batch):
        return [torch.randn(batch, c, *s) for c, s in zip((4, 6, 8), sizes, strict=True)]

    dims = [{i: Dim.AUTO for i in (0, 2, 3)}] * 3
    example = levels([(18, 22), (9, 11), (5, 6)], 2)
    exported = torch.export.export(head, (example,), dynamic_shapes=(dims,), strict=strict).module()
    for batch, sizes in enumerate(([(18, 22), (9, 11), (5, 6)], [(31, 8), (16, 4), (7, 3)]), 1):
        x = levels(sizes, batch)
        assert_same([exported(x)], [head(x)])


def session(path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    loaded = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = loaded.get_inputs()[0].name
    return lambda x: [torch.from_numpy(y) for y in loaded.run(None, {name: x.numpy()})]


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    "dynamo",
    [
        pytest.param(False, id="tracing"),
        pytest.param(True, id="dynamo", marks=pytest.mark.slow),  # a minute each
    ],
)
@pytest.mark.parametrize("kind", [*KINDS, *TIMM])
def test_onnx(tmp_path, kind, dynamo):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    module, path = model(kind), tmp_path / "model.onnx"
    free = {0: "n", 2: "h", 3: "w"}
    how = {"dynamic_shapes": (free,)} if dynamo else {"dynamic_axes": {"images": free}}
    example = images((96, 64), 2)
    torch.onnx.export(module, (example,), path, input_names=["images"], dynamo=dynamo, **how)
    check(session(path), module)


class Labels(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.model = Segmenter(Pyramid(), classes, neck={"out_channels": 8}, head=HEAD).eval()
        nn.init.normal_(self.model.head.conv_seg.weight, std=3.0)

    def forward(self, images):
        return self.model.predict(images)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("classes", [1, 5])
def test_a_trace_of_labels_takes_other_sizes(classes):
    module = Labels(classes)
    traced = torch.jit.trace(module, (images((96, 64), 2),))
    for size in ((96, 64), (128, 160)):
        x = images(size, 1)
        found, expected = traced(x), module(x)
        assert found.shape == expected.shape == (1, *size) and expected.unique().numel() > 1
        assert (found == expected).float().mean() > 0.999


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", [*KINDS, "resnet18"])
def test_a_trace_takes_other_sizes(kind):
    """Traced at whole strides, where the resizes at the end do nothing."""
    module, buffer = model(kind), io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (images((96, 64), 2),)), buffer)
    buffer.seek(0)
    traced = torch.jit.load(buffer)
    check(lambda x: maps(traced(x)), module)
