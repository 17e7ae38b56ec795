"""fpn_neck.FPN on its fast paths against itself without them, and what must not take them.

Tolerance: 1e-5 relative to the largest value in float32, 1e-12 in float64; see
`helpers.fast_paths.TOLERANCE`.
"""

import copy
import io
import math
import pickle
from contextlib import nullcontext

import pytest
import torch
from helpers.fast_paths import TOLERANCE, assert_close, set_limits
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from fpn_neck import FPN, fast
from fpn_neck.fast.cpu import processor

CHANNELS, WIDTH = [4, 6, 10], 8
SIZES = {
    "even": [(32, 40), (16, 20), (8, 10)],
    "not divisible": [(28, 36), (14, 18), (7, 9)],
    "odd": [(29, 37), (15, 19), (8, 10)],
    "one pixel": [(1, 1)] * 3,
    "flat": [(2, 700), (1, 350), (1, 175)],
    "tall": [(300, 2), (150, 1), (75, 1)],
    "coarser is larger": [(4, 5), (8, 10), (3, 3)],
}
EXTRA = {
    "none": {},
    "pooling": {"num_outs": 5},
    "on_input": {"num_outs": 5, "add_extra_convs": "on_input"},
    "on_lateral": {"num_outs": 5, "add_extra_convs": "on_lateral"},
    "on_output": {"num_outs": 5, "add_extra_convs": "on_output"},
    "used levels": {"num_outs": 1, "start_level": 1, "end_level": 1},
}
SMOOTH = ["merged", "none"]
LAYOUTS = [torch.contiguous_format, torch.channels_last]

pytestmark = pytest.mark.usefixtures("any_size")


def build(dtype=torch.float32, channels=CHANNELS, **options):
    fpn = FPN(channels, WIDTH, **options).to(dtype)
    for p in fpn.parameters():
        nn.init.normal_(p, std=0.2)  # biases too
    return fpn


def maps(sizes=SIZES["even"], batch=2, dtype=torch.float32, layout=torch.contiguous_format):
    inputs = zip(CHANNELS, sizes, strict=True)
    return [torch.randn(batch, c, *s, dtype=dtype).to(memory_format=layout) for c, s in inputs]


def plain(fpn, inputs):
    with fast.enable(False):
        assert not fpn._takes_fast_path(inputs)
        return fpn(inputs)


def assert_same(ours, expected, tolerance=1e-5):
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("smooth", SMOOTH)
def test_outputs_and_gradients(smooth, sizes, dtype, layout):
    """Against the plain order in float64."""
    fpn = build(dtype, smooth=smooth)
    twin = copy.deepcopy(fpn).double()
    for batch in (1, 3):
        inputs = [x.requires_grad_() for x in maps(sizes, batch, dtype, layout)]
        twins = [x.detach().double().requires_grad_() for x in inputs]
        assert fpn._takes_fast_path(inputs)
        expected, ours = plain(twin, twins), fpn(inputs)
        assert {y.dtype for y in ours} == {dtype}
        assert_same(ours, expected, TOLERANCE[dtype])
        with torch.no_grad():
            assert_same(fpn(inputs), expected, TOLERANCE[dtype])
        leaves = [*inputs, *fpn.parameters()]
        grads = [torch.randn_like(y) for y in ours]
        ours = torch.autograd.grad(ours, leaves, grads)
        assert [g.dtype for g in ours] == [t.dtype for t in leaves]
        leaves = [*twins, *twin.parameters()]
        expected = torch.autograd.grad(expected, leaves, [g.double() for g in grads])
        assert_same(ours, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("options", EXTRA.values(), ids=EXTRA.keys())
@pytest.mark.parametrize("smooth", SMOOTH)
def test_extra_levels_and_used_levels(smooth, options, grad):
    fpn, inputs = build(smooth=smooth, **options), maps()
    with torch.set_grad_enabled(grad):
        assert_same(fpn(inputs), plain(fpn, inputs))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", [SIZES["even"], SIZES["odd"]], ids=["even", "odd"])
@pytest.mark.parametrize("smooth", SMOOTH)
@pytest.mark.parametrize("extra", [False, "on_lateral", "on_output"])
def test_layout_in_memory_is_that_of_torchs_operators(extra, smooth, sizes, layout, grad):
    fpn = build(num_outs=5, smooth=smooth, add_extra_convs=extra).to(memory_format=layout)
    inputs = maps(sizes, layout=layout)
    with torch.set_grad_enabled(grad):
        for ours, expected in zip(fpn(inputs), plain(fpn, inputs), strict=True):
            assert ours.stride() == expected.stride()


@pytest.mark.parametrize("frozen", ["inputs", "laterals", "smooths", "biases"])
def test_frozen_parts_get_no_gradient_and_the_rest_its_own(frozen):
    fpn, inputs = build(), [x.requires_grad_() for x in maps()]
    for name, p in fpn.named_parameters():
        part = {"laterals": "lateral_convs", "smooths": "fpn_convs", "biases": "bias"}
        p.requires_grad_(part.get(frozen, "nothing") not in name)
    if frozen == "inputs":
        inputs = [x.detach() for x in inputs]
    leaves = [t for t in (*inputs, *fpn.parameters()) if t.requires_grad]
    ours = torch.autograd.grad(sum(y.square().sum() for y in fpn(inputs)), leaves)
    expected = torch.autograd.grad(sum(y.square().sum() for y in plain(fpn, inputs)), leaves)
    assert_same(ours, expected)


@pytest.mark.parametrize("smooth", SMOOTH)
def test_weights_that_are_no_parameters_get_their_gradient(smooth):
    """As under FSDP, and in meta-learning; the maps need none."""
    fpn, inputs = build(smooth=smooth), maps()
    for conv in [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]:
        weight = conv.weight.detach().clone().requires_grad_()
        conv.bias.requires_grad_(False)
        del conv.weight
        conv.weight = weight
    assert fpn._takes_fast_path(inputs) and all(y.requires_grad for y in fpn(inputs))


def backward_batched(outs, leaves):
    grads = [torch.stack([torch.ones_like(y), y.detach()]) for y in outs]
    return torch.autograd.grad(outs, leaves, grads, is_grads_batched=True)


def backward_in_autocast(outs, leaves):
    with torch.autocast("cpu"):
        return torch.autograd.grad(sum(y.square().sum() for y in outs), leaves)


@pytest.mark.parametrize("sizes", [SIZES["even"], SIZES["odd"]], ids=["even", "odd"])
@pytest.mark.parametrize("backward", [backward_batched, backward_in_autocast])
@pytest.mark.parametrize("smooth", SMOOTH)
def test_backward_is_torchs_where_the_fast_one_does_not_fit(smooth, backward, sizes):
    fpn, inputs = build(smooth=smooth), [x.requires_grad_() for x in maps(sizes)]
    leaves = [*inputs, *fpn.parameters()]
    assert_same(backward(fpn(inputs), leaves), backward(plain(fpn, inputs), leaves))


@torch.no_grad()
def test_a_batch_gives_every_image_its_own_bits():
    fpn, inputs = build(), maps(batch=3)
    single = [fpn([x[i : i + 1] for x in inputs]) for i in range(3)]
    for y, *parts in zip(fpn(inputs), *single, strict=True):
        torch.testing.assert_close(y, torch.cat(parts), atol=0, rtol=0)


@pytest.mark.parametrize("grad", [False, True])
def test_inputs_and_earlier_outputs_stay_as_they_are(grad):
    fpn, inputs, others = build(), maps(), maps()
    copies = [x.clone() for x in inputs]
    with torch.set_grad_enabled(grad):
        outs = fpn(inputs)
        before = [y.clone() for y in outs]
        fpn(others)
    assert all(torch.equal(a, b) for a, b in zip([*inputs, *outs], [*copies, *before], strict=True))


def test_derivatives_in_float64():
    fpn = FPN([2, 3], 2).double()
    inputs = [torch.randn(1, 2, 4, 6), torch.randn(1, 3, 2, 3)]
    inputs = [x.double().requires_grad_() for x in inputs]
    assert fpn._takes_fast_path(inputs)
    assert torch.autograd.gradcheck(lambda *x: fpn(x), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: fpn(x), inputs)


# The setting ------------------------------------------------------------------------------------


def test_disabled_it_gives_the_bits_of_torchs_operators():
    fpn, inputs = build(), maps()
    outs = fpn(inputs)
    fast.enable(False)
    try:
        off = fpn(inputs)
        with fast.enable():
            on = fpn(inputs)
        assert not fpn._takes_fast_path(inputs)
    finally:
        fast.enable()
    c = inputs[-1]
    by_hand = fpn.fpn_convs[-1].conv(fpn.lateral_convs[-1].conv(c))
    torch.testing.assert_close(off[-1], by_hand, atol=0, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(outs, on, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(outs, off, strict=True))


@pytest.mark.parametrize("least", [processor.OTHERS, *processor.MEASURED.values()], ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_small_maps_take_torchs_operators(least, grad, batch, monkeypatch):
    monkeypatch.setattr(processor, "limits", lambda: least)
    fpn, limit = FPN([8, 8], 256), least.training if grad else least.inference
    of_batch = max(limit.pixels, limit.multiply_adds / 9 / 256**2) * torch.get_num_threads()
    of_image = max(of_batch / batch, limit.of_image / 9 / 256**2)
    side = math.ceil(of_image**0.5)
    small, large = (torch.randn(batch, 8, s, s) for s in (side - 1, side))
    above = torch.randn(batch, 8, 15, 15)
    with torch.set_grad_enabled(grad):
        assert not fpn._takes_fast_path([small, above])
        assert fpn._takes_fast_path([large, above])
        many = torch.randn(999, 8, 16, 16)  # 1.5e8 for each image
        assert not fpn._takes_fast_path([many, many[..., :8, :8]])
        narrow = FPN([8, 8], limit.channels - 1) if limit.channels > 1 else None
        assert narrow is None or not narrow._takes_fast_path([torch.randn(1, 8, 600, 600), above])


@pytest.mark.parametrize("least", [processor.OTHERS, *processor.MEASURED.values()], ids=str)
def test_no_limit_is_below_the_least_of_all(least, monkeypatch):
    monkeypatch.undo()
    limits = [least.inference, least.training, least.weight_gradient]
    assert all(limit.of_image >= processor.LEAST_MULTIPLY_ADDS for limit in limits if limit)


def test_what_was_measured_is_looked_up_by_processor(monkeypatch):
    monkeypatch.undo()
    read = processor.limits.__wrapped__  # without its cache
    for (vendor, instructions), least in processor.MEASURED.items():
        monkeypatch.setattr(processor, "vendor", lambda vendor=vendor: vendor)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda i=instructions: i)
        monkeypatch.setattr(processor, "_has_onednn", lambda: True)
        assert read() == least
        monkeypatch.setattr(processor, "_has_onednn", lambda: False)
        assert read() == least._replace(onednn_channels=None)
    monkeypatch.setattr(processor, "vendor", lambda: "GenuineIntel")
    assert read() == processor.OTHERS


def test_bfloat16_is_torchs_own_on_processors_where_that_is_faster(monkeypatch):
    neck, inputs = build().bfloat16(), [x.bfloat16() for x in maps()]
    assert neck._takes_fast_path(inputs)
    set_limits(monkeypatch, fast_bfloat16=True)
    assert not neck._takes_fast_path(inputs)
    assert build()._takes_fast_path(maps())  # in float32


# What needs torch's own operators ---------------------------------------------------------------


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OwnTensor(torch.Tensor):
    pass


def call_counter(fpn):
    calls = []
    fpn.fpn_convs[0].conv.register_forward_hook(lambda *_: calls.append(1))
    return calls


NOT_PLAIN = {
    "norm": lambda: build(norm_cfg={"type": "BN"}).eval(),
    "activation": lambda: build(act_cfg={"type": "ReLU"}),
    "conv_cfg": lambda: build(conv_cfg={"type": OwnConv}),
    "padding mode": lambda: build(conv_cfg={"type": "Conv2d", "padding_mode": "reflect"}),
    "bilinear": lambda: build(upsample_cfg={"mode": "bilinear"}),
    "chained": lambda: build(smooth="chained"),
    "no top-down path": lambda: build(top_down=False),
    "no laterals": lambda: build(laterals=False),
}


@pytest.mark.parametrize("make", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_other_necks_keep_the_plain_order(make):
    """Their single 3x3 convolutions may be Winograd's all the same, see test_blocks."""
    fpn = make()
    inputs = maps(dtype=next(fpn.parameters()).dtype)
    assert not fpn._takes_fast_path(inputs)
    for a, b in zip(fpn(inputs), plain(fpn, inputs), strict=True):
        assert_close(a, b, TOLERANCE[torch.float32])


def spectral(fpn):
    nn.utils.spectral_norm(fpn.fpn_convs[0].conv)


def own_forward(fpn):
    conv = fpn.lateral_convs[1].conv
    conv.forward = lambda x: nn.Conv2d.forward(conv, x) + 1


WRAPPED = {
    "forward hook": lambda fpn: fpn.fpn_convs[0].conv.register_forward_hook(lambda m, x, y: y * 2),
    "hook on the block": lambda fpn: fpn.lateral_convs[0].register_forward_hook(
        lambda m, x, y: y * 2
    ),
    "pre-hook": lambda fpn: fpn.fpn_convs[1].conv.register_forward_pre_hook(lambda m, x: x[0] * 2),
    "weight norm": lambda fpn: nn.utils.parametrizations.weight_norm(fpn.fpn_convs[0].conv),
    "spectral norm": spectral,
    "pruning": lambda fpn: prune.l1_unstructured(fpn.fpn_convs[0].conv, "weight", 0.5),
    "own forward": own_forward,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_wrapped_convolutions_are_called(wrap):
    fpn, inputs = build().eval(), maps()
    before = fpn(inputs)
    wrap(fpn)
    assert not fpn._takes_fast_path(inputs)
    ours = fpn(inputs)
    assert_same(ours, plain(fpn, inputs))
    if wrap is not WRAPPED["spectral norm"]:  # divides a weight that it leaves as it was
        assert wrap is WRAPPED["weight norm"] or not torch.allclose(ours[0], before[0])


def test_a_global_hook_sees_every_convolution():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: seen.append(type(m)))
    try:
        build()(maps())
    finally:
        handle.remove()
    assert seen.count(nn.Conv2d) == 6


class OwnPath(FPN):
    def _top_down_path(self, laterals, sizes):
        return [x * 0 for x in laterals]


def test_a_top_down_path_of_its_own_is_taken():
    fpn, inputs = OwnPath(CHANNELS, WIDTH), maps()
    replaced = build()
    replaced._top_down_path = lambda laterals, sizes: [x * 0 for x in laterals]
    for own in (fpn, replaced):
        outs = own(inputs)
        expected = [f(torch.zeros_like(y)) for f, y in zip(own.fpn_convs, outs, strict=True)]
        assert_same(outs, expected)


def test_an_upsampling_of_its_own_is_taken():
    class OwnUpsampling(FPN):
        def _upsampled(self, x, size):
            return 0 * super()._upsampled(x, size)

    fpn, inputs = OwnUpsampling(CHANNELS, WIDTH), maps()
    replaced = build()
    replaced._upsampled = lambda x, size: x.new_zeros(*x.shape[:2], *size)
    for own in (fpn, replaced):
        laterals = [conv(x) for conv, x in zip(own.lateral_convs, inputs, strict=True)]
        expected = [f(x) for f, x in zip(own.fpn_convs, laterals, strict=True)]
        assert_same(own(inputs), expected)


class Names(TorchFunctionMode):
    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def test_a_mode_sees_every_convolution():
    fpn, inputs = build(), maps()
    with Names() as mode:
        fpn(inputs)
    assert mode.seen.count("conv2d") == 6


def test_a_default_device_is_no_such_mode():
    fpn, inputs = build(), maps()
    with torch.device("cpu"):
        assert fpn._takes_fast_path(inputs)


def test_operations_are_counted_as_torch_counts_them():
    from torch.utils.flop_counter import FlopCounterMode

    fpn, inputs = build(), maps()
    with FlopCounterMode(display=False) as counter:
        fpn(inputs)
    pixels = [x.shape[0] * x.shape[2] * x.shape[3] for x in inputs]
    macs = [p * WIDTH * (c + 9 * WIDTH) for p, c in zip(pixels, CHANNELS, strict=True)]
    assert counter.get_total_flops() == 2 * sum(macs)


def test_subclasses_of_tensors_are_left_alone():
    inputs = [x.as_subclass(OwnTensor) for x in maps()]
    fpn = build()
    assert not fpn._takes_fast_path(inputs) and type(fpn(inputs)[0]) is OwnTensor


def test_meta_and_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    fpn, inputs = build(), maps()
    shapes = [y.shape for y in fpn(inputs)]
    on_meta = copy.deepcopy(fpn).to("meta")([x.to("meta") for x in inputs])
    assert [y.shape for y in on_meta] == shapes
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = fpn([mode.from_tensor(x) for x in inputs])
    assert [y.shape for y in fake] == shapes


def test_functional_transforms():
    fpn, inputs = build(), maps(batch=3)
    expected = fpn(inputs)
    mapped = torch.func.vmap(lambda *x: fpn([t[None] for t in x]))(*inputs)
    assert_same([y[:, 0] for y in mapped], expected)

    def loss(parameters):
        return sum(y.square().sum() for y in torch.func.functional_call(fpn, parameters, (inputs,)))

    parameters = dict(fpn.named_parameters())
    ours = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    assert_same(ours.values(), expected)
    _, tangent = torch.func.jvp(lambda x: fpn([x, *inputs[1:]])[0], (inputs[0],), (inputs[0],))
    zero = fpn([torch.zeros_like(inputs[0]), *inputs[1:]])[0]
    assert_same([tangent], [fpn(inputs)[0] - zero])  # linear in its inputs


@pytest.mark.parametrize("smooth", SMOOTH)
def test_forward_mode_derivatives(smooth):
    """By `torch.autograd.forward_ad` itself, which our own autograd functions do not support."""
    fpn, inputs = build(smooth=smooth), maps()
    tangents = [torch.randn_like(x) for x in inputs]
    assert fpn._takes_fast_path(inputs)
    with forward_ad.dual_level():
        assert not fpn._takes_fast_path(inputs)
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        found = [forward_ad.unpack_dual(y) for y in fpn(duals)]
    zero = fpn([torch.zeros_like(x) for x in inputs])  # an FPN is linear, but for the biases
    expected = [y - z for y, z in zip(fpn(tangents), zero, strict=True)]
    assert_same([y.tangent for y in found], expected)
    assert_same([y.primal for y in found], fpn(inputs))


# What torch does with modules -------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_a_graph_break(backend, grad):
    fpn, inputs = build(num_outs=4), maps()
    compiled = torch.compile(fpn, fullgraph=True, backend=backend)
    with torch.set_grad_enabled(grad):
        assert_same(compiled(inputs), fpn(inputs))


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(strict):
    fpn, inputs = build(num_outs=4).eval(), maps()
    dynamic = [{0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}] * 3
    exported = torch.export.export(
        fpn, (inputs,), dynamic_shapes=(dynamic,), strict=strict
    ).module()
    larger = maps([(48, 56), (24, 28), (12, 14)])
    assert_same(exported(larger), fpn(larger))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_and_reloads():
    fpn, inputs = build(num_outs=4).eval(), maps()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(fpn, (inputs,)), buffer)
    buffer.seek(0)
    assert_same(torch.jit.load(buffer)(inputs), fpn(inputs))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_with_dynamic_sizes(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    fpn, inputs, names = build(num_outs=4).eval(), maps(), ["C2", "C3", "C4"]
    dynamic = {name: {0: "n", 2: f"h_{name}", 3: f"w_{name}"} for name in names}
    path = str(tmp_path / "fpn.onnx")
    torch.onnx.export(fpn, (inputs,), path, input_names=names, dynamic_axes=dynamic, dynamo=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    larger = maps([(48, 56), (24, 28), (12, 14)], batch=1)
    outs = session.run(None, {n: x.numpy() for n, x in zip(names, larger, strict=True)})
    assert_same([torch.from_numpy(y) for y in outs], fpn(larger))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_its_own_dtype(dtype):
    fpn, inputs = build(), maps()
    with torch.autocast("cpu", dtype=dtype):
        assert not fpn._takes_fast_path(inputs)
        assert {y.dtype for y in fpn(inputs)} == {dtype}


def test_deepcopy_and_pickle():
    fpn, inputs = build(), maps()
    expected = fpn(inputs)
    for twin in (copy.deepcopy(fpn), pickle.loads(pickle.dumps(fpn))):
        assert list(twin.state_dict()) == list(fpn.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(twin(inputs), expected, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    fpn, inputs = build(), [x.requires_grad_() for x in maps()]
    leaves = list(fpn.parameters())

    def grads(call):
        fpn.zero_grad()
        sum(y.square().sum() for y in call()).backward()
        return [p.grad.clone() for p in leaves]

    ours = grads(lambda: checkpoint(lambda *x: fpn(x), *inputs, use_reentrant=reentrant))
    assert_same(ours, grads(lambda: fpn(inputs)), 0)


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel(tmp_path):
    from torch import distributed

    fpn, inputs = build(), maps()
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(fpn)
        sum(y.square().sum() for y in wrapped(inputs)).backward()
        ours = [p.grad.clone() for p in fpn.parameters()]
    finally:
        distributed.destroy_process_group()
    fpn.zero_grad()
    sum(y.square().sum() for y in plain(fpn, inputs)).backward()
    assert_same(ours, [p.grad for p in fpn.parameters()])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, nullcontext])
def test_weights_that_an_optimiser_moved_are_seen(mode):
    fpn, inputs = build(), maps()
    optimiser = torch.optim.AdamW(fpn.parameters(), lr=0.1)
    for _ in range(2):
        sum(y.square().sum() for y in fpn(inputs)).backward()
        optimiser.step()
        with mode():
            assert_same(fpn(inputs), plain(fpn, inputs))


@pytest.mark.filterwarnings("ignore")
def test_threads_share_a_neck():
    from concurrent.futures import ThreadPoolExecutor

    fpn, batches = build().eval().requires_grad_(False), [maps() for _ in range(8)]
    expected = [fpn(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for ours, own in zip(pool.map(fpn, batches), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, own, strict=True))
