"""fpn_neck.FPN against the plain reference in float64 on the CPU, forward and backward.

Tolerance: relative to the largest value, see `helpers.fast_paths.ROUNDING`; 1e-5 in float32.
"""

import pytest
import torch
from helpers import references
from helpers.devices import CUDA, peak_memory, replayable
from helpers.fast_paths import ROUNDING, assert_close
from torch import nn

from fpn_neck import FPN, fast
from fpn_neck.fast import cuda_pyramid
from fpn_neck.fast.cuda import available

CHANNELS = (16, 24, 40)
SIZES = {
    "even": [(32, 40), (16, 20), (8, 10)],
    "odd": [(29, 37), (15, 19), (8, 10)],
    "one pixel": [(1, 1)] * 3,
    "coarser is larger": [(4, 5), (8, 10), (3, 3)],
}
OPTIONS = {
    "paper": {},
    "width not a power of two": {"out_channels": 20},
    "P6 by a convolution": {"num_outs": 4, "add_extra_convs": "on_output"},
    "GN and ReLU": {"norm_cfg": {"type": "GN", "num_groups": 4}, "act_cfg": {"type": "ReLU"}},
    "bilinear": {"upsample_cfg": {"mode": "bilinear"}},
    "chained": {"smooth": "chained"},
}
NEAREST = {"mode": "nearest"}
LAYOUTS = [torch.contiguous_format, torch.channels_last]

pytestmark = pytest.mark.usefixtures("any_size")


def build(options=OPTIONS["paper"]):
    args = {"out_channels": 32, "upsample_cfg": NEAREST} | options
    neck = FPN(CHANNELS, **args)
    for p in neck.parameters():
        nn.init.normal_(p, std=0.2)  # biases too
    return neck, args


def maps(sizes=SIZES["odd"], batch=2):
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


def check(device, neck, args, inputs, dtype=torch.float32, layout=torch.contiguous_format):
    """Outputs, gradients of the inputs and of the weights."""
    neck = neck.to(device, dtype, memory_format=layout)
    leaves = [x.to(device, dtype, memory_format=layout).requires_grad_() for x in inputs]
    state = {n: p.detach().cpu().double().requires_grad_() for n, p in neck.named_parameters()}
    doubles = [x.detach().cpu().double().requires_grad_() for x in leaves]
    outs, expected = neck(leaves), references.fpn(state, args, doubles)
    cotangents = [torch.randn(y.shape, dtype=torch.float64) for y in expected]
    torch.autograd.backward(outs, [g.to(y) for g, y in zip(cotangents, outs, strict=True)])
    torch.autograd.backward(expected, cotangents)

    assert all(y.device.type == device and y.dtype == dtype for y in outs)
    grads = [x.grad for x in leaves] + [p.grad for p in neck.parameters()]
    expected_grads = [x.grad for x in doubles] + [state[n].grad for n, _ in neck.named_parameters()]
    for a, b in zip([*outs, *grads], [*expected, *expected_grads], strict=True):
        assert_close(a.detach().cpu(), b.detach(), ROUNDING[dtype])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes(device, sizes, layout):
    check(device, *build(), maps(sizes), layout=layout)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(device, options):
    check(device, *build(options), maps())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(device, dtype, layout):
    check(device, *build(), maps(), dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_in_inference(device, layout):
    neck, args = build()
    inputs = maps()
    state = {n: p.detach().double() for n, p in neck.named_parameters()}
    expected = references.fpn(state, args, [x.double() for x in inputs])
    neck = neck.to(device, memory_format=layout).eval()
    with torch.inference_mode():
        outs = neck([x.to(device, memory_format=layout) for x in inputs])
    for a, b in zip(outs, expected, strict=True):
        assert a.is_contiguous(memory_format=layout)
        assert_close(a.cpu(), b, ROUNDING[torch.float32])


def test_autocast_gives_bfloat16(device):
    neck, inputs = build()[0].to(device), [x.to(device) for x in maps()]
    with torch.no_grad():
        expected = neck(inputs)
        with torch.autocast(device, torch.bfloat16):
            outs = neck(inputs)
    for a, b in zip(outs, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert_close(a, b, 2e-2)


def test_repeated_on_new_maps(device):
    neck, inputs = build()[0].to(device).eval(), [x.to(device) for x in maps()]
    with torch.no_grad():
        call = replayable(lambda: neck(inputs), device)
        for x in inputs:
            x.copy_(torch.randn_like(x))
        for a, b in zip(call(), neck(inputs), strict=True):
            assert_close(a, b, 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("batch", [1, 5], ids=["small", "biases are channels"])
@pytest.mark.parametrize("device", [CUDA], indirect=True)
@torch.no_grad()
def test_less_memory_than_torchs_operators_in_inference(device, batch, layout):
    if not available():
        pytest.skip("no kernel runs here")
    kind = {"device": device, "dtype": torch.bfloat16, "memory_format": layout}
    neck = FPN([16, 16], 256).to(**kind)
    inputs = [torch.randn(batch, 16, s, s).to(**kind) for s in (168, 84)]
    assert (batch == 5) == (batch * 256 * 168 * 168 >= cuda_pyramid.LEAST_NUMBERS)

    def plain():
        with fast.enable(False):
            return neck(inputs)

    neck(inputs), plain()  # kernels are compiled, libraries initialise themselves
    ours, theirs = (peak_memory(f, torch.device(device)) for f in (lambda: neck(inputs), plain))
    assert ours < theirs


@pytest.mark.cuda
def test_a_graph_is_captured_without_any_call_of_a_kernel_before(run_python):
    """Whether kernels run can't be tried while a graph is captured: it has torch's operators."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    code = """
import torch
from fpn_neck import FPN, fast
neck = FPN([8, 8], 16).cuda().eval()
inputs = [torch.randn(1, 8, s, s, device="cuda") for s in (16, 8)]
stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
with torch.no_grad():
    with torch.cuda.stream(stream), fast.enable(False):
        neck(inputs)  # cuDNN initialises itself
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        outs = neck(inputs)
    for x in inputs:
        x.normal_()
    graph.replay()
    with fast.enable(False):
        print(max((a - b).abs().max().item() for a, b in zip(outs, neck(inputs))) < 1e-2)
    neck(inputs)
"""
    assert run_python(code).strip() == "True"
