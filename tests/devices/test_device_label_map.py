"""label_map against resizing and argmax in float64 on the CPU.

Labels may differ only where two logits are equal within 1e-5 of the largest.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers.devices import replayable

from fpn_neck.strips.label_map import label_map

CASES = {  # classes, size of the logits, size of the labels
    "mmseg's": (19, (16, 24), (64, 96)),
    "odd": (7, (13, 9), (51, 34)),
    "one class": (1, (8, 8), (31, 32)),
    "many classes": (194, (16, 12), (64, 48)),
    "one cell": (5, (1, 1), (9, 5)),
    "one pixel": (5, (6, 4), (1, 1)),
    "smaller": (5, (9, 13), (4, 5)),
    "the same size": (5, (6, 4), (6, 4)),
}


def regions(classes, size):
    """Logits of large regions, as a trained model gives them."""
    small = torch.randn(2, classes, *(-(-s // 4) for s in size))
    return F.interpolate(small, size=size, mode="bicubic")


def check(labels, logits, size, align_corners=False):
    logits = logits.detach().cpu().double()
    x = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    if x.shape[1] == 1:
        x = torch.cat((torch.zeros_like(x), x), 1)
    assert labels.dtype == torch.int64 and labels.shape == (len(x), *size)
    found = x.gather(1, labels.cpu().unsqueeze(1))
    assert (x.amax(1, keepdim=True) - found).max() <= 1e-5 * x.abs().max()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("classes", "size", "target"), CASES.values(), ids=CASES)
def test_sizes(device, classes, size, target, align_corners):
    logits = regions(classes, size).to(device)
    labels = label_map(logits, target, align_corners)
    assert labels.device.type == device
    check(labels, logits, target, align_corners)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_layouts(device, dtype, layout):
    logits = regions(19, (16, 24)).to(device, dtype, memory_format=layout)
    check(label_map(logits, (64, 96)), logits, (64, 96))


def test_noise(device):
    logits = torch.randn(1, 150, 32, 24, device=device)
    check(label_map(logits, (128, 96)), logits, (128, 96))


def test_repeated_on_new_logits(device):
    logits = regions(19, (16, 24)).to(device)
    call = replayable(lambda: label_map(logits, (64, 96)), device)
    logits.copy_(regions(19, (16, 24)))
    check(call(), logits, (64, 96))
