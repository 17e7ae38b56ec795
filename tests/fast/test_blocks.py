"""Every 3x3 of the package takes the fast path: heads and necks with norms, against torch's own."""

import copy

import pytest
import torch
from helpers.fast_paths import set_limits
from torch import nn

import fpn_neck.fast.cpu.conv3x3 as fast
from fpn_neck import FPN, SegHead
from fpn_neck.fast import enable
from fpn_neck.models.layers import ConvNormAct

SIZES = [(16, 20), (8, 10), (4, 5), (2, 3)]
BN = {"type": "BN"}
MODULES = {
    "head of BN": lambda: SegHead(8, 5, channels=6, norm_cfg=BN),
    "head of GN, cat": lambda: SegHead(8, 5, channels=32, merge="cat", dropout=0),
    "neck of BN and ReLU": lambda: FPN([8] * 4, 6, norm_cfg=BN, act_cfg={"type": "ReLU"}),
    "chained neck": lambda: FPN([8] * 4, 6, smooth="chained"),
    "neck without laterals": lambda: FPN([8] * 4, 6, laterals=False),
}


@pytest.fixture
def calls(monkeypatch):
    """Everything is large enough; counts the convolutions by Winograd."""
    set_limits(monkeypatch)
    counted, own = [], fast.conv3x3

    def counting(x, *arguments):
        counted.append(tuple(x.shape))
        return own(x, *arguments)

    monkeypatch.setattr(fast, "conv3x3", counting)
    return counted


def run(module, maps):
    leaves = [x.clone().requires_grad_() for x in maps]
    outs = module(leaves)
    outs = [outs] if isinstance(outs, torch.Tensor) else list(outs)
    torch.manual_seed(1)
    sum((y * torch.randn_like(y)).sum() for y in outs).backward()
    return [*outs, *(x.grad for x in leaves), *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_gradients_are_torchs(calls, name, training):
    module = MODULES[name]().double().train(training)
    twin = copy.deepcopy(module)
    maps = [torch.randn(2, 8, *size, dtype=torch.float64) for size in SIZES]
    for m in (module, twin):  # the same channels are dropped
        for layer in m.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.p = 0.0
    with enable(False):
        expected = run(twin, maps)
    assert not calls
    found = run(module, maps)
    assert len(calls) >= 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    for a, b in zip(module.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_without_gradients_and_without_bias(calls):
    block = ConvNormAct(3, 4, 3, norm_cfg=BN, act_cfg={"type": "ReLU"}).eval()
    assert block.conv.bias is None
    x = torch.randn(1, 3, 9, 11)
    with torch.no_grad():
        found = block(x)
        assert calls == [(1, 3, 9, 11)]
        with enable(False):
            expected = block(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.conv.register_forward_hook(lambda *_: None),
        lambda b: setattr(b.conv, "stride", (2, 2)),
        lambda b: setattr(b.conv, "dilation", (2, 2)),
        lambda b: nn.utils.parametrizations.weight_norm(b.conv),
    ],
    ids=["hook", "stride", "dilation", "weight norm"],
)
def test_anything_else_is_torchs(calls, change):
    block = ConvNormAct(3, 4, 3)
    change(block)
    x = torch.randn(1, 3, 9, 11).to(next(block.parameters()).dtype)
    assert block(x).isfinite().all()
    assert not calls


def test_small_maps_are_torchs(monkeypatch):
    monkeypatch.setattr(fast, "conv3x3", None)  # a call would fail
    ConvNormAct(3, 4, 3)(torch.randn(1, 3, 9, 11))
