"""fpn_neck.SegHead against the plain reference in float64 on the CPU, forward and backward.

Tolerance: relative to the largest value, see `helpers.fast_paths.ROUNDING`; 1e-5 in float32.
"""

import pytest
import torch
from helpers import references
from helpers.fast_paths import ROUNDING, assert_close
from torch import nn

from fpn_neck import SegHead

K, STRIDES = 7, (4, 8, 16, 32)
EVEN = [(16, 24), (8, 12), (4, 6), (2, 3)]
ODD = [(15, 19), (8, 10), (4, 5), (2, 3)]
OPTIONS = {
    "GN": {},
    "BN": {"norm_cfg": {"type": "BN"}},
    "no norm": {"norm_cfg": None},
    "cat": {"merge": "cat"},
    "align_corners": {"align_corners": True},
}
PLAIN = {"merge": "add", "align_corners": False, "act_cfg": {"type": "ReLU"}}
PLAIN |= {"norm_cfg": {"type": "GN", "num_groups": 4}, "strides": STRIDES}
LAYOUTS = [torch.contiguous_format, torch.channels_last]

pytestmark = pytest.mark.usefixtures("any_size")


def check(device, options, sizes, dtype=torch.float32, layout=torch.contiguous_format):
    args = PLAIN | options
    head = SegHead(12, K, channels=16, dropout=0.0, **args).eval()
    for name, t in [*head.named_parameters(), *head.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(t, 0.5, 1.5)
        elif t.is_floating_point():
            nn.init.normal_(t, mean=float(t.dim() == 1), std=0.2)
    head = head.to(device, dtype, memory_format=layout)
    shapes = [(2, 12, *size) for size in sizes]
    leaves = [
        torch.randn(s).to(device, dtype, memory_format=layout).requires_grad_() for s in shapes
    ]
    state = {n: t.detach().cpu() for n, t in head.state_dict().items()}
    state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    doubles = [x.detach().cpu().double().requires_grad_() for x in leaves]
    weights = {n: state[n].requires_grad_() for n, _ in head.named_parameters()}
    logits, expected = head(leaves), references.seg_head(state, args, doubles)
    cotangent = torch.randn(expected.shape, dtype=torch.float64)
    logits.backward(cotangent.to(logits))
    expected.backward(cotangent)

    assert logits.dtype == dtype and logits.is_contiguous(memory_format=layout)
    assert_close(logits.detach().cpu(), expected.detach(), ROUNDING[dtype])
    for x, y in zip(leaves, doubles, strict=True):
        # Half of a ReLU's gradient hangs on a rounded sign.
        if dtype in (torch.float32, torch.float64):
            assert_close(x.grad.cpu(), y.grad, ROUNDING[dtype])
    for name, p in head.named_parameters():
        if dtype in (torch.float32, torch.float64):
            assert_close(p.grad.cpu(), weights[name].grad, ROUNDING[dtype])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_and_sizes(device, options, sizes, layout):
    check(device, options, sizes, layout=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(device, dtype):
    check(device, OPTIONS["GN"], EVEN, dtype)
