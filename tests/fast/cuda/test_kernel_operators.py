"""The neck's and the head's kernels as operators of torch, under torch.compile."""

import pytest
import torch
import torch.nn.functional as F
from helpers.kernels import need_kernels
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from fpn_neck import FPN, SegHead, fast
from fpn_neck.fast.cuda_head.double import Addend
from fpn_neck.models.layers import ConvNormAct

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
ops = torch.ops.fpn_neck
CHANNELS = [3, 4, 6]
# No two of these numbers are equal: torch.compile takes equal sizes for one.
FIRST = 2, [(10, 14), (5, 7), (9, 12)]
SECOND = 5, [(11, 13), (7, 9), (10, 12)]


def maps(device, batch, sizes):
    made = (torch.randn(batch, c, *s) for c, s in zip(CHANNELS, sizes, strict=True))
    return [x.to(device).requires_grad_() for x in made]


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def check(operator, *arguments):
    """Its schema, its derivative and its fake, also with sizes that are not known."""
    torch.library.opcheck(operator, arguments)
    torch.library.opcheck(operator, [
        t.detach() if isinstance(t, torch.Tensor) else t for t in arguments
    ])  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_merge_is_an_operator(dtype, layout, device):
    x, above = (torch.randn(2, 3, *s, dtype=dtype) for s in ((3, 5), (2, 3)))
    x, above = (t.to(device, memory_format=layout).requires_grad_() for t in (x, above))
    bias = torch.randn(3, dtype=dtype, device=device).requires_grad_()
    check(ops.merge_level.default, x, bias, above)
    check(ops.merge_level_backward.default, x, 2, 3)
    ours = ops.merge_level(x, bias, above)
    theirs = x + bias[:, None, None] + F.interpolate(above, size=(3, 5))
    assert ours.is_contiguous(memory_format=layout)
    leaves = x, bias, above

    def derive(y):
        first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        return *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    assert_same([ours], [theirs])
    assert_same(derive(ours), derive(theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norm_is_an_operator(dtype, device):
    x = torch.randn(2, 6, 4, 5, dtype=dtype).to(device, memory_format=torch.channels_last)
    affine = torch.randn(2, 6, dtype=dtype, device=device)
    leaves = [t.requires_grad_() for t in (x, *(a.clone() for a in affine))]
    check(ops.group_norm_relu.default, leaves[0], 3, *leaves[1:], 1e-5, None, False)
    ours, mean, rstd = ops.group_norm_relu(leaves[0], 3, *leaves[1:], 1e-5, None, False)
    theirs = F.relu(F.group_norm(leaves[0], 3, *leaves[1:]))
    assert ours.stride() == x.stride()
    assert_same([ours], [theirs])
    grad = torch.randn_like(ours)
    assert_same(*(torch.autograd.grad(y, leaves, grad) for y in (ours, theirs)))
    plain = [t.detach() for t in (grad, *leaves, mean, rstd)]
    torch.library.opcheck(ops.group_norm_relu_backward.default, plain)


@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norm_and_sum_are_an_operator(dtype, doubled, device):
    """Of odd sizes, which takes every step of the kernel."""
    kind = {"dtype": dtype, "device": device, "memory_format": torch.channels_last}
    x, other = (torch.randn(2, 6, *s).to(**kind) for s in ((3, 5), (2, 3) if doubled else (3, 5)))
    leaves = [t.requires_grad_() for t in (x, *torch.randn(2, 6).to(x).unbind(), other)]
    arguments = leaves[0], 3, *leaves[1:3], 1e-5, other, doubled
    check(ops.group_norm_relu.default, *arguments)
    ours = ops.group_norm_relu(*arguments)[0]
    addend = Addend(other, doubled, align_corners=False).resized((3, 5))
    theirs = F.relu(F.group_norm(leaves[0], 3, *leaves[1:3])) + addend
    assert ours.stride() == x.stride()
    assert_same([ours], [theirs])
    grad = torch.randn_like(ours)
    assert_same(*(torch.autograd.grad(y, leaves, grad) for y in (ours, theirs)))


def test_the_gradient_of_a_doubled_map_is_an_operator(layout, device):
    grad = torch.randn(2, 3, 3, 5).to(device, memory_format=layout).requires_grad_()
    check(ops.add_doubled_backward.default, grad, 2, 3)
    ours = ops.add_doubled_backward(grad, 2, 3)
    assert ours.is_contiguous(memory_format=layout)
    leaf = torch.randn_like(ours).requires_grad_()
    up = Addend(leaf, doubled=True, align_corners=False).resized((3, 5))
    assert_same([ours], torch.autograd.grad(up, leaf, grad.detach()))
    (again,) = torch.autograd.grad(ours, grad, leaf.detach())  # it is linear: the map, doubled
    assert_same([again], [up])


@pytest.mark.parametrize("dynamic", [True, pytest.param(None, marks=pytest.mark.slow)])
def test_a_compiled_neck_has_one_graph_for_all_sizes(dynamic, device):
    """And one more without gradients; to change between them, again and again, costs nothing."""
    fpn = FPN(CHANNELS, 8).to(device)
    for p in fpn.parameters():
        nn.init.normal_(p, std=0.3)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(fpn, fullgraph=True, dynamic=dynamic, backend=counter)
    counts = []
    for batch, sizes in (FIRST, SECOND, FIRST):
        inputs = maps(device, batch, sizes)
        for _ in range(2):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    ours = compiled(inputs)
                with fast.enable(False):
                    theirs = fpn(inputs)
                assert_same(ours, theirs)
                if grad and not counts:
                    wanted = [*inputs, *fpn.parameters()]
                    grads = [torch.randn_like(y) for y in ours]
                    ours = torch.autograd.grad(ours, wanted, grads)
                    assert_same(ours, torch.autograd.grad(theirs, wanted, grads))
        counts.append(counter.frame_count)
    # With dynamic=None torch learns from the second sizes that they change.
    assert counts == ([2, 2, 2] if dynamic else [2, 4, 4])
    targets = [str(n.target) for graph in counter.graphs for n in graph.graph.nodes]
    assert targets.count("fpn_neck.merge_level.default") == 2 * counts[-1]


def test_a_compiled_neck_under_autocast(device):
    fpn, inputs = FPN(CHANNELS, 8).to(device), maps(device, *FIRST)
    compiled = torch.compile(fpn, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.autocast(device.type, torch.bfloat16):
        ours = compiled(inputs)
    assert {y.dtype for y in ours} == {torch.bfloat16}
    assert_same(ours, fpn(inputs), 0.03)
    sum(y.float().sum() for y in ours).backward()
    assert all(p.grad.dtype == torch.float32 for p in fpn.parameters())


def test_a_compiled_head_in_channels_last(device):
    head = SegHead(4, 3, channels=8, norm_cfg={"type": "GN", "num_groups": 4}).to(device).eval()
    nn.init.normal_(head.conv_seg.weight)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, backend=counter)
    pyramid = [
        torch.randn(2, 4, s, s + 4).to(device, memory_format=torch.channels_last)
        for s in (8, 4, 2, 1)
    ]
    with fast.enable(False):
        theirs = head(pyramid)
    ours = compiled(pyramid)
    assert_same([ours], [theirs])
    targets = [str(n.target) for n in counter.graphs[0].graph.nodes]
    assert targets.count("fpn_neck.group_norm_relu.default") == 7
    wanted = list(head.parameters())
    assert_same(*(torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)))


def compiled_head(in_channels, channels, dynamic, device):
    """A head of three levels, compiled; what counts its graphs; how its maps are made."""
    norm = {"type": "GN", "num_groups": channels // 2}
    head = SegHead(in_channels, 3, channels=channels, norm_cfg=norm, strides=(4, 8, 16)).eval()
    kind = {"device": device, "memory_format": torch.channels_last}
    head, counter = head.to(**kind), CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, dynamic=dynamic, backend=counter)
    return head, compiled, counter, kind


@pytest.mark.parametrize("dynamic", [True, pytest.param(None, marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_compiled_head_sums_in_the_norms_operator(dynamic, device):
    head, compiled, counter, kind = compiled_head(4, 8, dynamic, device)
    pyramid = [torch.randn(2, 4, *s).to(**kind) for s in ((12, 20), (6, 10), (3, 5))]
    ours = compiled(pyramid)
    nodes = [n for n in counter.graphs[0].graph.nodes if "group_norm_relu" in str(n.target)]
    assert [n.args[6] for n in nodes if n.args[5] is not None] == [False, True]
    with fast.enable(False):
        assert_same([ours], [head(pyramid)])


def test_a_compiled_head_has_two_graphs_for_all_sizes(device):
    """One for levels of half the finer one's size, one for other sizes; both for any batch."""
    head, compiled, counter, kind = compiled_head(7, 4, True, device)
    counts = []
    for batch, *sizes in (
        (2, (12, 20), (6, 10), (3, 5)),
        (3, (8, 12), (4, 6), (2, 3)),
        (2, (9, 10), (5, 5), (3, 3)),
        (4, (12, 6), (6, 3), (3, 2)),
    ):
        pyramid = [torch.randn(batch, 7, *s).to(**kind).requires_grad_() for s in sizes]
        ours = compiled(pyramid)
        with fast.enable(False):
            theirs = head(pyramid)
        assert_same([ours], [theirs])
        assert_same(*(torch.autograd.grad(y.square().sum(), pyramid) for y in (ours, theirs)))
        counts.append(counter.frame_count)
    assert counts == [1, 1, 2, 2]


@pytest.mark.parametrize("turned_off", [True, False])
def test_switched_off_compiled_graphs_have_only_torchs_operators(turned_off, device):
    fpn, inputs = FPN(CHANNELS, 8).to(device), maps(device, *FIRST)
    block = ConvNormAct(3, 8, 3, norm_cfg={"type": "GN", "num_groups": 4}, act_cfg={"type": "ReLU"})
    block = block.to(device)
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    with fast.enable(not turned_off):
        torch.compile(fpn, fullgraph=True, backend=counter)(inputs)
        x = inputs[0].detach().to(memory_format=torch.channels_last)
        torch.compile(block, fullgraph=True, backend=counter)(x)
    own = [n for g in counter.graphs for n in g.graph.nodes if "fpn_neck." in str(n.target)]
    assert len(own) == (0 if turned_off else 3)
