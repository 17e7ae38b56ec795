"""All contestants of a case: every module eager, compiled, in both layouts, and exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import count, product
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.exported import ROUNDED, onnxruntime, openvino
from benchmarks.measure import Contestant, Maps, Skip
from fpn_neck import fast

OURS = "fpn_neck"
PLAIN = "fpn_neck, plain"  # without the fast paths
# Relative to the largest value.
TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 2e-2, "int8": 0.2}
# Share of all pixels; rounding decides between two nearly equal logits.
MAX_DIFFERENT_LABELS = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.2, "int8": 0.5}
_numbers = count()


class Way(NamedTuple):
    """How a module is run.

    Attributes:
        compiled: mode of torch.compile.
        graph: the forward is one CUDA graph.
        plain: without this package's fast paths.
    """

    layout: torch.memory_format = torch.contiguous_format
    compiled: str | None = None
    graph: bool = False
    plain: bool = False


EAGER = {"": Way()}
COMPILED = {", torch.compile": Way(compiled="default")}
ON_GPU = {
    ", max-autotune": Way(compiled="max-autotune-no-cudagraphs"),
    ", CUDA graph": Way(graph=True),
}


def build_contestants(
    case: Case, wanted: Callable[[str], bool], *, keep_going: bool = False
) -> tuple[list[Contestant], list[str]]:
    """The contestants with a wanted name, and why others can't run here.

    Args:
        keep_going: leave out a contestant that fails or computes something else.

    Raises:
        ArithmeticError: a contestant computes something else.
    """
    ours, inputs = case.ours().to(case.device).eval(), case.inputs()
    with torch.no_grad(), fast.enable(False):
        expected = copy.deepcopy(ours).double()([x.double() for x in inputs])
    contestants, missing = [], []
    for name, make in _makers(case, ours).items():
        if not wanted(name):
            continue
        try:
            contestant = make(name, inputs)
            if not name.startswith(case.not_compared):
                arithmetic = contestant.arithmetic or case.arithmetic
                contestant.error = check(contestant, expected, arithmetic)
        except Skip as e:
            missing.append(f"{name}: {e}")
        except Exception as e:
            if not keep_going:
                raise
            missing.append(f"{name}: FAILED, {type(e).__name__}: {str(e).strip()[:300]}")
        else:
            contestants.append(contestant)
    return contestants, missing


def _makers(case: Case, ours: nn.Module) -> dict[str, Callable[[str, list[Tensor]], Contestant]]:
    def in_way(
        build: Callable[[], nn.Module], way: Way
    ) -> Callable[[str, list[Tensor]], Contestant]:
        def make(name: str, inputs: list[Tensor]) -> Contestant:
            module = build().eval().to(case.device, case.dtype, memory_format=way.layout)
            return in_torch(
                name, module, [x.to(memory_format=way.layout) for x in inputs], case, way
            )

        return make

    makers = {}
    builders = {OURS: lambda: copy.deepcopy(ours)} | case.others(ours)
    ways = EAGER | COMPILED | (ON_GPU if case.device == "cuda" else {})
    for (name, build), (suffix, way) in product(builders.items(), ways.items()):
        makers |= _in_both_layouts(f"{name}{suffix}", way, lambda w, b=build: in_way(b, w))
    makers |= _in_both_layouts(PLAIN, Way(plain=True), lambda w: in_way(builders[OURS], w))
    if case.exported and case.device == "cpu":
        exported = builders[case.exported]
        makers[f"{case.exported}, ONNX Runtime"] = lambda name, x: onnxruntime(name, exported(), x)
        for rounded in (None, *ROUNDED):
            name = ", ".join(filter(None, (case.exported, "OpenVINO", rounded)))
            makers[name] = lambda name, x, r=rounded: openvino(name, exported(), x, r)
    return makers


def _in_both_layouts(name: str, way: Way, maker: Callable[[Way], Callable]) -> dict[str, Callable]:
    last = way._replace(layout=torch.channels_last)
    return {name: maker(way), f"{name}, channels_last": maker(last)}


def check(contestant: Contestant, expected: Maps, arithmetic: str = "float32") -> float:
    """Largest relative error of its maps, or share of different labels; refused if too large.

    Args:
        arithmetic: see `Case.arithmetic`.
    """
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
    tolerance = (MAX_DIFFERENT_LABELS if is_label else TOLERANCE)[arithmetic]
    if not error <= tolerance:
        raise ArithmeticError(
            f"{contestant.name} is {error:.1e} from the float64 reference "
            f"({'share of different labels' if is_label else 'relative to its largest value'}); "
            f"{tolerance:.0e} is allowed"
        )
    return error


def in_torch(
    name: str, module: nn.Module, inputs: list[Tensor], case: Case, way: Way = EAGER[""]
) -> Contestant:
    """Forward; forward and backward, of the loss or with fixed gradients of the outputs."""
    if way.graph:
        return Contestant(name, _graphed(_caller(module, case, way), inputs), has_peak=False)
    needs_grad = not case.returns_loss
    leaves = [x.clone().requires_grad_(needs_grad) for x in inputs]  # clone keeps the layout
    output_gradients: list[Tensor] = []
    forward, forward_for_step = (_caller(module, case, way) for _ in range(2))

    def run() -> Maps:
        if module.training:
            module.eval()
        with torch.no_grad():
            return forward(inputs)

    def step() -> None:
        if case.returns_loss and not module.training:
            module.train()
        outs = forward_for_step(leaves)
        if not output_gradients:
            make = torch.ones_like if case.returns_loss else torch.randn_like
            output_gradients.extend(map(make, outs))
        with fast.enable(not way.plain):
            torch.autograd.backward(outs, output_gradients)
        for t in (*leaves, *module.parameters()):
            t.grad = None

    return Contestant(name, run, step if case.has_backward else None)


def _caller(module: nn.Module, case: Case, way: Way) -> Callable[[list[Tensor]], Maps]:
    """The module's call, compiled if asked for, in the case's precision."""
    call = _compiled(module, way.compiled) if way.compiled else module
    amp = case.precision == "amp"

    def forward(inputs: list[Tensor]) -> Maps:
        autocast = torch.autocast(case.device, torch.bfloat16, enabled=amp)
        with autocast, fast.enable(not way.plain):
            return call(inputs)

    return forward


def _compiled(module: nn.Module, mode: str) -> Callable[[list[Tensor]], Maps]:
    """torch.compile of a code object of its own.

    What torch.compile keeps, its limit of recompilations, and the guards that a call has to pass
    belong to a code object. Contestants of one class would slow each other down.
    """

    def call(inputs: list[Tensor]) -> Maps:
        return module(inputs)

    code = call.__code__.replace(co_name=f"call{next(_numbers)}")
    own = FunctionType(code, call.__globals__, code.co_name, None, call.__closure__)
    return torch.compile(own, mode=mode, dynamic=False)


def _graphed(call: Callable[[list[Tensor]], Maps], inputs: list[Tensor]) -> Callable[[], Maps]:
    """The forward as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries initialise themselves, kernels are compiled
                call(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = call(inputs)

    def replay() -> Maps:
        graph.replay()
        return outs

    return replay
