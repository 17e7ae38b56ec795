"""Necks with equal weights: ours, mmdet's, torchvision's; eager, compiled, exported."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fpn_neck import FPN
from fpn_neck.benchmark.measure import Contestant, Maps, Skip
from fpn_neck.conversion import convert

WIDTH = 256
CHANNELS = {"resnet50": (256, 512, 1024, 2048), "tf_efficientnet_lite0": (24, 40, 112, 320)}


@dataclass(frozen=True)
class Case:
    """Backbone maps C2..C5 of ``batch`` images."""

    backbone: str
    height: int
    width: int
    batch: int = 1
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.backbone} {self.height}x{self.width}, batch {self.batch}, {dtype}"

    def maps(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = [
            (self.batch, c, -(-self.height // s), -(-self.width // s))
            for c, s in zip(CHANNELS[self.backbone], (4, 8, 16, 32), strict=True)
        ]
        return [torch.randn(shape, generator=generator).to(self.dtype) for shape in shapes]

    def work(self) -> dict[str, int]:
        """Multiply-adds of 1x1 and direct 3x3; bytes, each input and output moved once."""
        totals = {"multiply_adds": 0, "bytes": 0}
        for x in self.maps():
            pixels = x.numel() // x.shape[1]
            totals["multiply_adds"] += pixels * WIDTH * (x.shape[1] + 9 * WIDTH)
            totals["bytes"] += pixels * (x.shape[1] + WIDTH) * x.element_size()
        return totals


def contestants(case: Case, wanted: Callable[[str], bool]) -> tuple[list[Contestant], list[str]]:
    """All whose name is wanted, and the reasons for those that cannot run here.

    Raises:
        ArithmeticError: one of them computes something else.
    """
    torch.manual_seed(0)
    fpn = FPN(CHANNELS[case.backbone], WIDTH)
    for p in fpn.parameters():
        if p.dim() == 1:
            nn.init.normal_(p)
    maps = case.maps()
    with torch.no_grad():
        expected = copy.deepcopy(fpn).double()([x.double() for x in maps])
    fpn.to(case.dtype)
    entered, missing = [], []
    for name, make in _makers(fpn).items():
        if not wanted(name):
            continue
        try:
            contestant = make(name, maps)
        except Skip as e:
            missing.append(f"{name}: {e}")
            continue
        _check(contestant, expected, 1e-4 if case.dtype == torch.float32 else 2e-2)
        entered.append(contestant)
    return entered, missing


def _makers(fpn: FPN) -> dict[str, Callable[[str, list[Tensor]], Contestant]]:
    def eager(build: Callable[[FPN], nn.Module], compiled: bool = False, last: bool = False):
        def make(name: str, maps: list[Tensor]) -> Contestant:
            layout = torch.channels_last if last else torch.contiguous_format
            module = build(fpn).to(memory_format=layout)
            maps = [x.to(memory_format=layout) for x in maps]
            return _in_torch(name, torch.compile(module) if compiled else module, maps)

        return make

    makers = {}
    for name, build in (
        ("fpn_neck", copy.deepcopy),
        ("mmdet", _mmdet),
        ("torchvision", _torchvision),
    ):
        makers[name] = eager(build)
        makers[f"{name}, channels_last"] = eager(build, last=True)
        makers[f"{name}, torch.compile"] = eager(build, compiled=True)
        makers[f"{name}, torch.compile, channels_last"] = eager(build, compiled=True, last=True)
    makers["mmdet, ONNX Runtime"] = lambda name, maps: _onnxruntime(name, _mmdet(fpn), maps)
    makers["mmdet, OpenVINO"] = lambda name, maps: _openvino(name, _mmdet(fpn), maps)
    return makers


def _check(contestant: Contestant, expected: Maps, tolerance: float) -> None:
    outs = [torch.as_tensor(y) for y in contestant.run()]
    if [y.shape for y in outs] != [y.shape for y in expected]:
        raise ArithmeticError(f"{contestant.name} gives maps of {[tuple(y.shape) for y in outs]}")
    contestant.error = max(
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(outs, expected, strict=True)
    )
    if not contestant.error <= tolerance:
        raise ArithmeticError(
            f"{contestant.name} is {contestant.error:.1e} from the float64 reference, relative to "
            f"its largest value; {tolerance:.0e} is allowed"
        )


def _in_torch(name: str, module: nn.Module, maps: list[Tensor]) -> Contestant:
    leaves = [x.clone().requires_grad_() for x in maps]  # clone keeps the layout
    cotangents: list[Tensor] = []

    def run() -> Maps:
        with torch.no_grad():
            return module(maps)

    def step() -> None:
        outs = module(leaves)
        if not cotangents:
            cotangents.extend(torch.randn_like(y) for y in outs)
        torch.autograd.backward(outs, cotangents)
        for t in (*leaves, *module.parameters()):
            t.grad = None

    return Contestant(name, run, step)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _mmdet(fpn: FPN) -> nn.Module:
    try:
        from mmdet.models.necks import FPN as MMDetFPN
    except ImportError as e:
        raise Skip(f"mmdet is not installed ({e})") from e
    theirs = MMDetFPN(fpn.in_channels, WIDTH, len(fpn.in_channels)).to(_dtype(fpn))
    theirs.load_state_dict(fpn.state_dict())
    return theirs


class _TorchvisionFPN(nn.Module):
    def __init__(self, fpn: nn.Module) -> None:
        super().__init__()
        self.fpn = fpn

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())


def _torchvision(fpn: FPN) -> nn.Module:
    try:
        from torchvision.ops import FeaturePyramidNetwork
    except ImportError as e:
        raise Skip(f"torchvision is not installed ({e})") from e
    theirs = FeaturePyramidNetwork(fpn.in_channels, WIDTH).to(_dtype(fpn))
    state = convert(fpn.state_dict(), "mmdet", "torchvision").state_dict
    theirs.load_state_dict({k.removeprefix("backbone.fpn."): v for k, v in state.items()})
    return _TorchvisionFPN(theirs)


def _export(module: nn.Module, maps: list[Tensor], path: Path) -> list[str]:
    names = [f"C{i}" for i in range(2, 2 + len(maps))]
    if maps[0].dtype != torch.float32:
        raise Skip("exported in float32 only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (maps,), str(path), input_names=names, dynamo=False)
    return names


def _onnxruntime(name: str, module: nn.Module, maps: list[Tensor]) -> Contestant:
    try:
        import onnx  # noqa: F401 (the exporter's)
        import onnxruntime
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fpn.onnx"
        names = _export(module, maps, path)
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    inputs = {n: x.numpy() for n, x in zip(names, maps, strict=True)}
    return Contestant(name, lambda: session.run(None, inputs))


def _openvino(name: str, module: nn.Module, maps: list[Tensor]) -> Contestant:
    try:
        import openvino
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fpn.onnx"
        _export(module, maps, path)
        model = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    request, inputs = model.create_infer_request(), [x.numpy() for x in maps]

    def run() -> Maps:
        results = request.infer(inputs, share_inputs=True)
        return [results[i] for i in range(len(results))]

    return Contestant(name, run)
