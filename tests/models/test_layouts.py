"""What joins a backbone, a neck and a head passes the memory format of the maps on.

The tensors are fake ones of a GPU, which need none: a convolution follows the format of its input.
"""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from fpn_neck import Segmenter
from fpn_neck.models.pyramid_backbone import PyramidBackbone
from fpn_neck.models.timm_backbone import TimmBackbone
from fpn_neck.models.torchvision_backbone import FPNBackbone

NARROW = {"out_channels": 16}
BUILD = {
    "TimmBackbone": lambda: TimmBackbone("resnet18"),
    "PyramidBackbone": lambda: PyramidBackbone("resnet18", NARROW),
    "FPNBackbone": lambda: FPNBackbone("resnet18", neck=NARROW),
    "Segmenter": lambda: Segmenter(
        "resnet18", 5, neck=NARROW, head={"channels": 16, "norm_cfg": {"type": "BN"}}
    ),
}
PARTS = {"TimmBackbone": 20, "PyramidBackbone": 28, "FPNBackbone": 28, "Segmenter": 36}
NCHW, NHWC = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(
    ("dtype", "given", "wanted"),
    [
        (torch.float32, NCHW, NCHW),
        (torch.float32, NHWC, NHWC),
        (torch.float16, NCHW, NHWC),
        (torch.float16, NHWC, NHWC),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", BUILD)
def test_every_convolution_gets_the_same_layout(name, dtype, given, wanted):
    model, seen = BUILD[name]().eval(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, x, y: seen.append((x[0], y)))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(2, 3, 96, 64, dtype=dtype, device="cuda").to(memory_format=given)
        fake = {
            n: torch.empty_like(
                t, device="cuda", dtype=t.dtype if t.dtype == torch.int64 else dtype
            )
            for n, t in model.state_dict().items()
        }
        torch.func.functional_call(model, fake, images)
    assert len(seen) == PARTS[name]
    assert all(x.is_contiguous(memory_format=wanted) for x, _ in seen)
    assert all(y.is_contiguous(memory_format=wanted) for _, y in seen)
