"""All contestants of a case: every module eager, compiled, in both layouts, and exported."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.measure import Contestant, Maps, Skip

OURS = "fpn_neck"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative to the largest value
MAX_DIFFERENT_LABELS = 1e-3  # of all pixels; rounding decides between two nearly equal logits


def build_contestants(
    case: Case, wanted: Callable[[str], bool]
) -> tuple[list[Contestant], list[str]]:
    """The contestants with a wanted name, and why others can't run here.

    Raises:
        ArithmeticError: a contestant computes something else.
    """
    ours, inputs = case.ours().eval(), case.inputs()
    with torch.no_grad():
        expected = copy.deepcopy(ours).double()([x.double() for x in inputs])
    contestants, missing = [], []
    for name, make in _makers(case, ours).items():
        if not wanted(name):
            continue
        try:
            contestant = make(name, inputs)
        except Skip as e:
            missing.append(f"{name}: {e}")
            continue
        if not name.startswith(case.not_compared):
            contestant.error = check(contestant, expected, case.dtype)
        contestants.append(contestant)
    return contestants, missing


def _makers(case: Case, ours: nn.Module) -> dict[str, Callable[[str, list[Tensor]], Contestant]]:
    def in_layout(
        build: Callable[[], nn.Module], layout: torch.memory_format, compiled: bool = False
    ) -> Callable[[str, list[Tensor]], Contestant]:
        def make(name: str, inputs: list[Tensor]) -> Contestant:
            module = build().eval().to(case.dtype, memory_format=layout)
            inputs = [x.to(memory_format=layout) for x in inputs]
            return in_torch(name, module, inputs, case.returns_loss, compiled)

        return make

    makers = {}
    builders = {OURS: lambda: copy.deepcopy(ours)} | case.others(ours)
    for name, build in builders.items():
        for compiled in (False, True):
            prefix = f"{name}, torch.compile" if compiled else name
            makers[prefix] = in_layout(build, torch.contiguous_format, compiled)
            makers[f"{prefix}, channels_last"] = in_layout(build, torch.channels_last, compiled)
    exported = builders[case.exported]
    makers[f"{case.exported}, ONNX Runtime"] = lambda name, x: _onnxruntime(name, exported(), x)
    makers[f"{case.exported}, OpenVINO"] = lambda name, x: _openvino(name, exported(), x)
    return makers


def check(contestant: Contestant, expected: Maps, dtype: torch.dtype) -> float:
    """Largest relative error of its maps, or share of different labels; refused if too large."""
    outs = [torch.as_tensor(y) for y in contestant.run()]
    if [y.shape for y in outs] != [y.shape for y in expected]:
        raise ArithmeticError(f"{contestant.name} gives maps of {[tuple(y.shape) for y in outs]}")
    is_label = not expected[0].is_floating_point()
    error = max(
        (a != b).double().mean().item()
        if is_label
        else ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(outs, expected, strict=True)
    )
    tolerance = TOLERANCE[dtype]
    if is_label:
        tolerance = MAX_DIFFERENT_LABELS if dtype == torch.float32 else 0.2
    if not error <= tolerance:
        raise ArithmeticError(
            f"{contestant.name} is {error:.1e} from the float64 reference "
            f"({'share of different labels' if is_label else 'relative to its largest value'}); "
            f"{tolerance:.0e} is allowed"
        )
    return error


def in_torch(
    name: str, module: nn.Module, inputs: list[Tensor], returns_loss: bool, compiled: bool = False
) -> Contestant:
    """Forward; forward and backward, of the loss or with fixed gradients of the outputs."""
    leaves = [x.clone().requires_grad_(not returns_loss) for x in inputs]  # clone keeps the layout
    output_gradients: list[Tensor] = []
    call = torch.compile(module) if compiled else module

    def run() -> Maps:
        if module.training:
            module.eval()
        with torch.no_grad():
            return call(inputs)

    def step() -> None:
        if returns_loss and not module.training:
            module.train()
        outs = call(leaves)
        if not output_gradients:
            make = torch.ones_like if returns_loss else torch.randn_like
            output_gradients.extend(map(make, outs))
        torch.autograd.backward(outs, output_gradients)
        for t in (*leaves, *module.parameters()):
            t.grad = None

    has_backward = returns_loss or any(p.requires_grad for p in module.parameters())
    return Contestant(name, run, step if has_backward else None)


def _export(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> list[str]:
    names = [f"input{i}" for i in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"input_names": names, "dynamo": False}
        maps = [x.float() for x in inputs]
        torch.onnx.export(module.eval(), (maps,), str(path), **options)
    return names


def _onnxruntime(name: str, module: nn.Module, inputs: list[Tensor]) -> Contestant:
    try:
        import onnx  # noqa: F401 (the exporter's)
        import onnxruntime
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    if inputs[0].dtype != torch.float32:
        raise Skip("in float32 only")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = _export(module, inputs, path)
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feed = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return Contestant(name, lambda: session.run(None, feed))


def _openvino(name: str, module: nn.Module, inputs: list[Tensor]) -> Contestant:
    try:
        import openvino
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    hint = {torch.float32: "f32", torch.bfloat16: "bf16"}[inputs[0].dtype]  # of the arithmetic
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _export(module, inputs, path)
        model = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    request, feed = model.create_infer_request(), [x.float().numpy() for x in inputs]

    def run() -> Maps:
        results = request.infer(feed, share_inputs=True)
        return [results[i] for i in range(len(results))]

    return Contestant(name, run)
