"""A module exported to ONNX, in the libraries that run such files on a CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Contestant, Maps, Skip


def _export(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> list[str]:
    names = [f"input{i}" for i in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"input_names": names, "dynamo": False}
        maps = [x.float() for x in inputs]
        torch.onnx.export(module.eval(), (maps,), str(path), **options)
    return names


def onnxruntime(name: str, module: nn.Module, inputs: list[Tensor]) -> Contestant:
    try:
        import onnx  # noqa: F401 (the exporter's)
        import onnxruntime as runtime
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    if inputs[0].dtype != torch.float32:
        raise Skip("in float32 only")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = _export(module, inputs, path)
        session = runtime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feed = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return Contestant(name, lambda: session.run(None, feed))


def openvino(name: str, module: nn.Module, inputs: list[Tensor]) -> Contestant:
    try:
        import openvino as runtime
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
        model = runtime.Core().compile_model(runtime.Core().read_model(path), "CPU", settings)
    request, feed = model.create_infer_request(), [x.float().numpy() for x in inputs]

    def run() -> Maps:
        results = request.infer(feed, share_inputs=True)
        return [results[i] for i in range(len(results))]

    return Contestant(name, run)
