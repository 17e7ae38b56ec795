"""Group norm and ReLU in one, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.kernels import need_kernels
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from fpn_neck import SegHead, fast
from fpn_neck.fast.cuda_head.norm import group_norm_relu
from fpn_neck.models.layers import ConvNormAct

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
SHAPES = {  # photos, channels, groups, height, width
    "usual": (2, 8, 4, 5, 7),
    "more than a chunk": (1, 6, 2, 17, 33),
    "one group, odd": (2, 5, 1, 3, 1),
    "a group per channel": (1, 12, 12, 2, 9),
    "wide": (1, 144, 36, 2, 2),
    "no photos": (0, 4, 2, 3, 3),
}


def inputs(shape, device, dtype=torch.float32):
    photos, channels, groups, *size = shape
    x = torch.randn(photos, channels, *size).contiguous(memory_format=torch.channels_last)
    affine = torch.randn(2, channels, device=device)
    return x.to(device, dtype), groups, *affine


def reference(x, groups, weight, bias):
    """In float64, with gradients."""
    leaves = [t.detach().cpu().double().requires_grad_() for t in (x, weight, bias)]
    return F.relu(F.group_norm(leaves[0], groups, *leaves[1:])), leaves


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    if ours.numel():
        error = (ours.cpu().double() - theirs).abs().max()
        assert error <= tolerance * theirs.abs().max(), error


CASES = [(name, torch.float32) for name in SHAPES]
CASES += [("usual", torch.float16), ("usual", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_values_and_gradients(name, dtype, device):
    x, groups, weight, bias = inputs(SHAPES[name], device, dtype)
    expected, twins = reference(x, groups, weight, bias)
    before = x.clone()
    ours = group_norm_relu(x, groups, weight, bias)
    assert_close(ours, expected, ROUNDING[dtype])
    assert torch.equal(x, before) and ours.dtype == dtype and ours.stride() == x.stride()
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    ours = group_norm_relu(x, groups, weight, bias)
    grad = torch.randn(ours.shape).to(ours)
    theirs = torch.autograd.grad(expected, twins, grad.cpu().double())
    for a, b, leaf in zip(torch.autograd.grad(ours, leaves, grad), theirs, leaves, strict=True):
        assert a.dtype == leaf.dtype
        assert_close(a, b, 2 * ROUNDING[dtype])


def test_a_small_deviation_around_a_large_mean(device):
    x, groups, weight, bias = inputs(SHAPES["more than a chunk"], device)
    x = 1000 + x / 10  # of plain sums of squares in float32 nothing would be left
    expected, _ = reference(x, groups, weight, bias)
    assert_close(group_norm_relu(x, groups, weight, bias), expected, 1e-3)


def test_second_derivatives_and_batched_gradients(device):
    x, groups, weight, bias = (t.requires_grad_() if isinstance(t, torch.Tensor) else t
                               for t in inputs(SHAPES["usual"], device))  # fmt: skip
    frozen = bias.detach()

    def derive(function):
        (first,) = torch.autograd.grad(function().pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, weight])

    ours = derive(lambda: group_norm_relu(x, groups, weight, frozen))
    theirs = derive(lambda: F.relu(F.group_norm(x, groups, weight, frozen)))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b.detach().cpu().double(), 1e-4)
    grads = torch.randn(3, *x.shape, device=device)
    both = [
        group_norm_relu(x, groups, weight, frozen),
        F.relu(F.group_norm(x, groups, weight, frozen)),
    ]
    ours, theirs = (torch.autograd.grad(y, [x, weight], grads, is_grads_batched=True) for y in both)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b.detach().cpu().double(), 1e-4)


def test_blocks_take_it_in_channels_last(layout, device):
    block = ConvNormAct(3, 8, 3, norm_cfg={"type": "GN", "num_groups": 4}, act_cfg={"type": "ReLU"})
    block, x = block.to(device), torch.randn(2, 3, 5, 6).to(device, memory_format=layout)
    ours = block(x)
    with fast.enable(False):
        theirs = block(x)
        by_hand = F.relu(block.gn(block.conv(x)))
    assert torch.equal(theirs, by_hand)
    assert ("GroupNormRelu" in ours.grad_fn.name()) == (layout == torch.channels_last)
    assert_close(ours.detach(), theirs.detach().cpu().double(), 1e-5)
    block.gn.register_forward_hook(lambda module, inputs, output: output * 2)
    assert_close(block(x).detach(), 2 * theirs.detach().cpu().double(), 1e-5)


def test_a_head_in_half_precision_keeps_the_pyramids_layout(layout, device):
    """Inside it is NHWC, so that every norm is ours: the hook on the first convolution sees it."""
    head = SegHead(4, 3, channels=8, norm_cfg={"type": "GN", "num_groups": 4}).to(device).eval()
    nn.init.normal_(head.conv_seg.weight)
    pyramid = [torch.randn(1, 4, s, s + 1).to(device, memory_format=layout) for s in (8, 4, 2, 1)]
    with fast.enable(False):
        theirs = head(pyramid)
    seen = []
    head.scale_heads[0][0].conv.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    ours = head.bfloat16()([x.bfloat16() for x in pyramid])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert ours.dtype == torch.bfloat16 and ours.is_contiguous(memory_format=layout)
    assert_close(ours.detach(), theirs.detach().cpu().double(), 0.05)


def test_a_head_in_channels_last(device):
    head = SegHead(4, 3, channels=8, norm_cfg={"type": "GN", "num_groups": 4}).to(device).eval()
    pyramid = [torch.randn(1, 4, s, s + 1).to(device) for s in (8, 4, 2, 1)]
    nn.init.normal_(head.conv_seg.weight)
    with fast.enable(False):
        theirs = head(pyramid)
    ours = head([x.contiguous(memory_format=torch.channels_last) for x in pyramid])
    assert_close(ours.detach(), theirs.detach().cpu().double(), 1e-5)


@pytest.fixture
def one_process(tmp_path):
    """A group of processes with this one."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("way", ["checkpoint", "data parallel", "fully sharded"])
def test_a_head_composes(way, device):
    """Its gradients, of a scaled loss, are torch's."""
    norm = {"type": "GN", "num_groups": 4}
    head = SegHead(4, 3, channels=8, norm_cfg=norm, strides=(4, 8), dropout=0.0).to(device)
    nn.init.normal_(head.conv_seg.weight)
    kind = {"device": device, "memory_format": torch.channels_last}
    pyramid = [torch.randn(1, 4, s, s + 1).to(**kind).requires_grad_() for s in (6, 3)]
    with fast.enable(False):
        theirs = head(pyramid).square().sum()
    leaves, names = list(head.parameters()), [name for name, _ in head.named_parameters()]
    theirs = torch.autograd.grad(theirs, [*leaves, *pyramid])
    call = head
    if way == "data parallel":
        call = nn.parallel.DistributedDataParallel(head)
    elif way == "fully sharded":
        fully_shard(head, mesh=init_device_mesh(device.type, (1,)))
    scaler = torch.amp.GradScaler(device.type, init_scale=64.0)
    outs = checkpoint(call, pyramid, use_reentrant=False) if way == "checkpoint" else call(pyramid)
    scaler.scale(outs.square().sum()).backward()
    by_name = dict(head.named_parameters())
    found = [by_name[name].grad for name in names]
    found = [g.full_tensor() if way == "fully sharded" else g for g in found]
    for a, b in zip([*found, *(x.grad for x in pyramid)], theirs, strict=True):
        assert_close(a / 64, b.cpu().double(), 1e-5)
