"""fpn_neck.Segmenter on a device against itself in float64 on the CPU by torch's operators.

Logits, loss and gradients: 2e-5 of the largest value in float32. Labels may differ only where two
logits are that close; in tiles, which norm by scale and shift in float32, 5e-4.
"""

import copy

import pytest
import torch
from helpers.devices import SLOW_ON_CPU, replayable
from helpers.fast_paths import assert_close
from torch import nn

from fpn_neck import CrossEntropyLoss, DiceLoss, Segmenter, fast

K, TOLERANCE = 7, 2e-5


class Pyramid(nn.Module):
    """Strided 3x3 convolutions, each of what the one before gives."""

    out_channels, strides = (8, 12, 16, 24), (4, 8, 16, 32)

    def __init__(self):
        super().__init__()
        ins, steps = (3, *self.out_channels), (4, 2, 2, 2)
        self.levels = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=1)
            for a, b, s in zip(ins, self.out_channels, steps, strict=False)
        )

    def forward(self, x):
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


def segmenter(backbone=None):
    neck, head = {"out_channels": 32}, {"channels": 32, "dropout": 0.0}
    model = Segmenter(backbone or Pyramid(), K, neck=neck, head=head)
    nn.init.normal_(model.head.conv_seg.weight)
    return model.eval()


def in_double(model, *inputs):
    """The model's copy and the inputs."""
    return copy.deepcopy(model).cpu().double(), *(x.cpu().double() for x in inputs)


def logits_in_double(model, images):
    model, images = in_double(model, images)
    with torch.no_grad(), fast.enable(False):
        return model(images)


def check_labels(labels, logits, tolerance=TOLERANCE):
    assert labels.dtype == torch.int64 and labels.shape == logits[:, 0].shape
    assert len(labels.unique()) > 1
    found = logits.gather(1, labels.cpu().unsqueeze(1))
    assert (logits.amax(1, keepdim=True) - found).max() <= tolerance * logits.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", None])
def test_logits_and_labels(device, name, layout):
    if name:
        pytest.importorskip("timm")
    model, images = segmenter(name), torch.randn(2, 3, 93, 61)
    expected = logits_in_double(model, images)
    model = model.to(device, memory_format=layout)
    images = images.to(device, memory_format=layout)
    with torch.no_grad():
        assert_close(model(images).cpu(), expected, TOLERANCE)
    check_labels(model.predict(images), expected)


def test_tiles(device):
    model, images = segmenter(), torch.randn(1, 3, 833, 1500)
    expected = logits_in_double(model, images)
    model, images = model.to(device), images.to(device)
    check_labels(model.predict(images, tile=768), expected, 5e-4)
    check_labels(model.predict(images, tile=None), expected)


def test_loss_and_gradients(device):
    model, images = segmenter(), torch.randn(2, 3, 93, 61)
    target = torch.randint(K, (2, 93, 61))
    losses = [CrossEntropyLoss(), DiceLoss()]
    double, double_images = in_double(model, images)
    with fast.enable(False):
        logits = double(double_images)
        expected = sum(loss(logits, target) for loss in losses)
        expected.backward()
    model = model.to(device)
    loss = model.loss(images.to(device), target.to(device), *losses)
    loss.backward()
    assert_close(loss.detach().cpu(), expected.detach(), TOLERANCE)
    # float32 logarithms of the double's logits
    for (name, a), b in zip(model.named_parameters(), double.parameters(), strict=True):
        assert a.grad is not None, name
        assert_close(a.grad.cpu(), b.grad, TOLERANCE)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_compiled_without_a_graph_break(device):
    model, losses = segmenter().to(device), [CrossEntropyLoss(), DiceLoss()]
    torch.compiler.reset()
    options = {"fullgraph": True, "dynamic": True, "backend": "aot_eager"}
    loss_of = torch.compile(lambda *batch: model.loss(*batch, *losses), **options)
    labels_of = torch.compile(model.predict, **options)
    for batch, height, width in ((2, 93, 61), (3, 64, 96)):
        images = torch.randn(batch, 3, height, width).to(device)
        target = torch.randint(K, (batch, height, width)).to(device)
        expected, found = (
            [loss, *torch.autograd.grad(loss, list(model.parameters()))]
            for loss in (model.loss(images, target, *losses), loss_of(images, target))
        )
        for a, b in zip(found, expected, strict=True):
            assert_close(a.detach(), b.detach(), TOLERANCE)
        check_labels(labels_of(images), logits_in_double(model, images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_training_with_mixed_precision(device, dtype):
    """As AmpOptimWrapper does it; the loss falls as in float32."""
    start, images = segmenter().to(device), torch.randn(4, 3, 64, 64).to(device)
    target = (images.mean(1) > 0).long() + 2 * (images[:, 0] > 0)
    ends = []
    for amp in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler(
            device, init_scale=256.0, enabled=amp and dtype == torch.float16
        )
        history = []
        for _ in range(8):
            with torch.autocast(device, dtype, enabled=amp):
                loss = model.loss(images, target, CrossEntropyLoss())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            history.append(loss.item())
        assert history[-1] < 0.7 * history[0]
        ends.append(history)
    assert ends[0][0] == pytest.approx(ends[1][0], rel=0.02)
    assert ends[0][-1] == pytest.approx(ends[1][-1], rel=0.2)


def test_prediction_repeated_on_new_images(device):
    model, images = segmenter().to(device), torch.randn(2, 3, 96, 64).to(device)
    call = replayable(lambda: model.predict(images), device)
    images.copy_(torch.randn_like(images))
    labels = call()
    check_labels(labels, logits_in_double(model, images))
