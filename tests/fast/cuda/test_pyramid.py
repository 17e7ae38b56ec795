"""fpn_neck.FPN by the GPU's kernels against torch's own operators, in values and gradients."""

import pytest
import torch
from helpers.devices import peak_memory
from helpers.kernels import need_kernels
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from fpn_neck import FPN, fast
from fpn_neck.fast import cuda_pyramid as pyramid
from fpn_neck.models.fpn_paths import cuda as fpn_cuda

need_kernels()
pytestmark = pytest.mark.cuda  # tools/gpu_check.py runs them there
CHANNELS, WIDTH = [3, 4, 6], 8
SIZES = {
    "even": [(8, 12), (4, 6), (2, 3)],
    "odd": [(7, 9), (4, 5), (2, 3)],
    "one pixel": [(1, 1)] * 3,
}
EXTRA = {
    "on_lateral": {"num_outs": 5, "add_extra_convs": "on_lateral"},
    "no 3x3": {"smooth": "none"},
    "one level": {"start_level": 2},
}


def build(device, **options):
    fpn = FPN(CHANNELS, WIDTH, **options).to(device)
    for p in fpn.parameters():
        nn.init.normal_(p, std=0.3)  # biases too
    return fpn


def maps(device, sizes=SIZES["odd"], layout=torch.contiguous_format, dtype=torch.float32):
    inputs = zip(CHANNELS, sizes, strict=True)
    made = [torch.randn(2, c, *s).to(memory_format=layout) for c, s in inputs]
    return [x.to(device, dtype).requires_grad_() for x in made]


def plain(fpn, inputs):
    """By torch's operators."""
    with fast.enable(False):
        return fpn(inputs)


def takes_kernels(fpn, inputs):
    """Whether a kernel merges two levels; it is the first that the neck calls."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fpn_cuda, "cuda_pyramid", lambda *parts: called.append(parts))
        fpn(inputs)
    return bool(called)


def assert_same(ours, expected, tolerance=1e-5):
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def leaves(fpn, inputs):
    used = inputs[fpn.start_level :]
    return [*used, *fpn.parameters()]


@pytest.fixture
def biases_are_channels(monkeypatch):
    """As in large maps."""
    monkeypatch.setattr(pyramid, "LEAST_NUMBERS", 0)


@pytest.fixture(params=[False, True], ids=["", "biases are channels"])
def any_bias(request):
    """As in small maps, and as in large ones."""
    if request.param:
        request.getfixturevalue("biases_are_channels")


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_outputs_and_gradients(sizes, layout, device):
    fpn, inputs = build(device), maps(device, sizes, layout)
    assert takes_kernels(fpn, inputs)
    ours, expected = fpn(inputs), plain(fpn, inputs)
    assert_same(ours, expected)
    assert all(y.is_contiguous(memory_format=layout) for y in ours)
    grads = [torch.randn_like(y) for y in ours]
    wanted = leaves(fpn, inputs)
    ours = torch.autograd.grad(ours, wanted, grads)
    assert_same(ours, torch.autograd.grad(expected, wanted, grads))


@pytest.mark.parametrize("options", EXTRA.values(), ids=EXTRA.keys())
def test_options(options, layout, device):
    fpn, inputs = build(device, **options), maps(device, layout=layout)
    assert takes_kernels(fpn, inputs)
    ours, expected = fpn(inputs), plain(fpn, inputs)
    assert_same(ours, expected)
    wanted = leaves(fpn, inputs)
    ours = torch.autograd.grad(sum(y.square().sum() for y in ours), wanted)
    assert_same(ours, torch.autograd.grad(sum(y.square().sum() for y in expected), wanted))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_biases_as_channels(sizes, layout, device, biases_are_channels):
    """Values and gradients, of the biases too, without a pass for any of the 3x3's biases."""
    fpn, inputs = build(device), maps(device, sizes, layout)
    with torch.no_grad():
        assert_same(fpn(inputs), plain(fpn, inputs))
        assert_same(fpn.half().float()(inputs), plain(fpn, inputs))
    ours, expected = fpn(inputs), plain(fpn, inputs)
    assert_same(ours, expected)
    assert [y.grad_fn.name() for y in ours[:2]] == ["_ConvOnOnesBackward"] * 2
    wanted, grads = leaves(fpn, inputs), [torch.randn_like(y) for y in ours]
    ours = torch.autograd.grad(ours, wanted, grads)
    assert_same(ours, torch.autograd.grad(expected, wanted, grads))


def test_half_precision_keeps_each_maps_layout(layout, device):
    """Against float64; convolutions in bfloat16 round to 8 bits. No bias, no map is lost."""
    fpn, inputs = build(device), maps(device, layout=layout)
    expected = plain(fpn.double(), [x.double() for x in inputs])
    fpn, inputs = fpn.bfloat16(), [x.bfloat16() for x in inputs]
    assert takes_kernels(fpn, inputs)
    ours = fpn(inputs)
    assert_same([y.double() for y in ours], expected, 0.03)
    for y in ours:
        assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=layout)


def test_autocast(layout, device, biases_are_channels):
    """Parameters and their gradients stay in float32, maps are in half precision."""
    fpn, inputs = build(device), maps(device, layout=layout)
    by_level = [
        [(block.conv.weight, block.conv.bias) for block in blocks] for blocks in fpn._blocks()
    ]
    expected = plain(fpn, inputs)
    with torch.autocast(device.type, torch.bfloat16):
        ours, _ = pyramid.cuda_pyramid(inputs, *by_level)
        with torch.no_grad():
            wide, _ = pyramid.cuda_pyramid(inputs, *by_level)
    assert {y.dtype for y in ours} == {torch.bfloat16}
    assert_same([y.float() for y in ours], expected, 0.03)
    assert_same([y.float() for y in wide], expected, 0.03)
    grads = torch.autograd.grad(sum(y.float().sum() for y in ours), leaves(fpn, inputs))
    theirs = torch.autograd.grad(sum(y.sum() for y in expected), leaves(fpn, inputs))
    assert {g.dtype for g in grads} == {torch.float32}
    assert_same(grads, theirs, 0.03)


@pytest.mark.parametrize("frozen", ["maps", "biases", "weights"])
def test_frozen_parts(frozen, device, any_bias):
    fpn, inputs = build(device), maps(device)
    if frozen == "maps":
        inputs = [x.detach() for x in inputs]
    for name, p in fpn.named_parameters():
        p.requires_grad_({"biases": "bias", "weights": "weight"}.get(frozen, "-") not in name)
    wanted = [t for t in leaves(fpn, inputs) if t.requires_grad]
    ours = torch.autograd.grad(sum(y.square().sum() for y in fpn(inputs)), wanted)
    expected = torch.autograd.grad(sum(y.square().sum() for y in plain(fpn, inputs)), wanted)
    assert_same(ours, expected)


def test_second_derivatives_and_batched_gradients(device, any_bias):
    fpn, inputs = build(device), maps(device)
    weight = fpn.lateral_convs[1].conv.weight

    def derive(outs):
        (first,) = torch.autograd.grad(sum(y.pow(3).sum() for y in outs), weight, create_graph=True)
        # The last 3x3's bias, among others, has no influence on that gradient's square.
        return torch.autograd.grad(
            first.square().sum(), leaves(fpn, inputs), materialize_grads=True
        )

    assert_same(derive(fpn(inputs)), derive(plain(fpn, inputs)))

    def batched(outs):
        grads = [torch.stack([torch.ones_like(y), y.detach()]) for y in outs]
        return torch.autograd.grad(outs, leaves(fpn, inputs), grads, is_grads_batched=True)

    assert_same(batched(fpn(inputs)), batched(plain(fpn, inputs)))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant, device, any_bias):
    fpn, inputs = build(device), maps(device)
    outs = checkpoint(lambda *x: fpn(x), *inputs, use_reentrant=use_reentrant)
    sum(y.square().sum() for y in outs).backward()
    ours = [t.grad for t in leaves(fpn, inputs)]
    expected = plain(fpn, inputs)
    assert_same(
        ours,
        torch.autograd.grad(sum(y.square().sum() for y in expected), leaves(fpn, inputs)),
    )


def test_data_parallel_and_scaled_losses(device, tmp_path):
    """Two backward passes into the same buckets, and gradients of a scaled loss, unscaled."""
    fpn, inputs = build(device), maps(device)
    wanted = list(fpn.parameters())
    expected = torch.autograd.grad(sum(y.square().sum() for y in plain(fpn, inputs)), wanted)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(fpn)
        for _ in range(2):
            scaler = torch.amp.GradScaler(device.type, init_scale=64.0)
            optimizer = torch.optim.SGD(wanted, lr=0.0)
            optimizer.zero_grad()
            scaler.scale(sum(y.square().sum() for y in parallel(inputs))).backward()
            scaler.unscale_(optimizer)
            assert_same([p.grad for p in wanted], expected)
    finally:
        distributed.destroy_process_group()


def test_fully_sharded(device, tmp_path):
    """FSDP's parameters are whole while the neck runs."""
    fpn, inputs = build(device), maps(device)
    wanted = dict(fpn.named_parameters())
    expected = plain(fpn, inputs)
    grads = torch.autograd.grad(sum(y.square().sum() for y in expected), wanted.values())
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        fully_shard(fpn, mesh=init_device_mesh(device.type, (1,)))
        ours = fpn(inputs)
        assert "Merge" in str(merge_nodes(ours[0]))
        assert_same(ours, expected)
        sum(y.square().sum() for y in ours).backward()
        found = {n: p.grad.full_tensor() for n, p in fpn.named_parameters()}
        assert_same([found[n] for n in wanted], grads)
    finally:
        distributed.destroy_process_group()


def merge_nodes(y):
    """Names of a result's node of autograd and of those before it."""
    names, nodes = [], [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.append(node.name())
            nodes += [before for before, _ in node.next_functions]
    return names


def test_float64_derivatives_of_the_plain_path(device):
    fpn = build(device, num_outs=3).double()
    inputs = maps(device, [(3, 2), (2, 1), (1, 1)], dtype=torch.float64)
    assert not takes_kernels(fpn, inputs)
    leaf = fpn.lateral_convs[0].conv.bias
    assert torch.autograd.gradcheck(lambda *x: fpn(x[:3]), [*inputs, leaf], fast_mode=True)


def test_exported_it_needs_no_kernel(device):
    fpn, inputs = build(device), maps(device)
    program = torch.export.export(fpn, (inputs,))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert all(t.startswith("aten.") or "getitem" in t for t in targets), targets
    assert_same(program.module()(inputs), plain(fpn, inputs))


def test_torchs_bits_when_it_is_off(device):
    fpn, inputs = build(device), maps(device)
    laterals = [conv.conv(x) for conv, x in zip(fpn.lateral_convs, inputs, strict=True)]
    for i in (1, 0):
        up = nn.functional.interpolate(laterals[i + 1], size=laterals[i].shape[-2:])
        laterals[i] = laterals[i] + up
    by_hand = [block.conv(x) for block, x in zip(fpn.fpn_convs, laterals, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(plain(fpn, inputs), by_hand, strict=True))


@torch.no_grad()
def test_inputs_stay_as_they_are(layout, device):
    """Laterals are written over, maps of the backbone are not."""
    fpn, inputs = build(device), maps(device, layout=layout)
    before = [x.clone() for x in inputs]
    first, second = fpn(inputs), fpn(inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@torch.no_grad()
def test_memory_in_inference(device):
    """No map is kept longer than it is used: less than torch's operators.

    In NHWC: in NCHW the convolutions of a CPU have copies of their own. Where biases are channels,
    Triton's interpreter keeps the lateral; see tests/devices/test_device_neck.py.
    """
    kind = {"device": device, "memory_format": torch.channels_last}
    fpn = FPN([8, 8], 32).to(**kind)
    inputs = [torch.randn(2, 8, s, s).to(**kind) for s in (64, 32)]
    finest = 4 * 2 * 32 * 64 * 64
    fpn(inputs), plain(fpn, inputs)  # kernels are compiled, libraries initialise themselves
    ours = peak_memory(lambda: fpn(inputs), device)
    assert finest < ours < 0.9 * peak_memory(lambda: plain(fpn, inputs), device)


def test_no_caller_keeps_the_finest_lateral(device, any_bias):
    fpn, inputs = build(device), maps(device)
    started = fpn_cuda.start_finest(fpn.lateral_convs, inputs, 0)
    assert_same(started, [nn.functional.conv2d(inputs[0], fpn.lateral_convs[0].conv.weight)])
    ours, _ = fpn_cuda.pyramid_on_gpu(*fpn._blocks(), inputs, started)
    assert not started
    assert_same(ours, plain(fpn, inputs))


def test_levels_of_two_dtypes_are_refused(device):
    inputs = maps(device)
    with pytest.raises(TypeError, match="level 1: got a torch.float16 map"):
        build(device)([inputs[0], inputs[1].half(), inputs[2]])


def test_double_precision_takes_torchs_operators(device):
    fpn, inputs = build(device), maps(device)
    doubles = [x.double() for x in inputs]
    fpn = fpn.double()
    assert not takes_kernels(fpn, doubles)
    assert_same(fpn(doubles), plain(fpn, doubles), 1e-12)
