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


# Names of contestants that round to these; OpenVINO's other ones compute in the inputs' dtype.
ROUNDED = ("bfloat16", "int8")


def openvino(
    name: str, module: nn.Module, inputs: list[Tensor], rounded: str | None = None
) -> Contestant:
    """A contestant.

    Args:
        rounded: 'bfloat16' or 'int8', in which it computes a float32 model: its results are
            rougher than those of the others.

    Raises:
        Skip: OpenVINO, or NNCF for int8, is not installed.
    """
    try:
        import openvino as runtime

        if rounded == "int8":
            import nncf
    except ImportError as e:
        raise Skip(f"not installed ({e})") from e
    dtype = str(inputs[0].dtype).removeprefix("torch.")
    if rounded and dtype != "float32":
        raise Skip("of a float32 model only")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _export(module, inputs, path)
        model = runtime.Core().read_model(path)
    feed = [x.float().numpy() for x in inputs]
    if rounded == "int8":
        model = nncf.quantize(model, nncf.Dataset([feed]), subset_size=1)
    hint = "bf16" if "bfloat16" in (rounded, dtype) else "f32"  # of what is not int8
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = runtime.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run() -> Maps:
        results = request.infer(feed, share_inputs=True)
        return [results[i] for i in range(len(results))]

    return Contestant(name, run, arithmetic=rounded)
