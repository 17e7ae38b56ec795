"""Writes a model as a file of ONNX, OpenVINO or torch.export, and compares it with the model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fpn_neck.export.graphs import Exportable
from fpn_neck.export.metadata import FORMATS, KEY
from fpn_neck.export.parity import Parity, Run, compare, picture
from fpn_neck.export.runtime import open_session
from fpn_neck.utils.files import check_file, write_whole

OPSET = 17


def export(
    made: Exportable,
    path: Path,
    size: tuple[int, int],
    *,
    format: str = "onnx",
    dynamic: bool = False,
) -> Parity:
    """Write the file and compare it with the model; a file that differs does not stay.

    Args:
        made: from `fpn_neck.export.graphs`, `fpn_neck.mm.seg.export` or `fpn_neck.mm.det.export`.
        path: its suffix is that of the format, see `FORMATS`. OpenVINO's weights lie beside it, in
            a file with the suffix ``.bin``.
        size: (height, width) in px of the images; with ``dynamic``, of the first comparison.
        dynamic: batch, height and width are free; a detector takes one image at a time.

    Raises:
        ParityError: see `compare`.
        ValueError: the format, the suffix or the combination; the format can't express the model.
        ImportError: what the format needs is not installed.
    """
    if FORMATS.get(format) != path.suffix:
        expected = ", ".join(f"FILE{suffix} for {name}" for name, suffix in FORMATS.items())
        raise ValueError(f"{path} does not fit format {format!r}: expected {expected}")
    if format == "torch-export" and made.metadata.kind == "detection":
        raise ValueError(
            "torch-export takes no detectors: the number of boxes depends on the data (NonZero, "
            "NonMaxSuppression); choose onnx or openvino, or export the feature maps"
        )
    check_file(path)
    write = {"onnx": _write_onnx, "openvino": _write_openvino, "torch-export": _write_program}
    with TemporaryDirectory() as folder:
        whole = Path(folder) / f"model{path.suffix}"
        with _refusals(format):
            run = write[format](made, whole, size, dynamic)
        parity = compare(run, made, size, dynamic=dynamic)
        for part in sorted(Path(folder).glob(f"{whole.stem}.*")):  # .bin before .xml
            target = path.with_suffix(part.suffix)
            write_whole(target, partial(_copy, part))
    return parity


@contextmanager
def _refusals(format: str) -> Iterator[None]:
    """An exporter's error as one line: each has its own kinds, with pages of text."""
    try:
        yield
    except (ImportError, OSError, ValueError):
        raise
    except Exception as e:
        reason = str(e).strip().partition("\n")[0]
        raise ValueError(
            f"{format} can't express this model: {type(e).__name__}: {reason}; try another format, "
            "or export the feature maps only"
        ) from e


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


# ---------------------------------------------------------------------------------------- formats


def _write_onnx(made: Exportable, path: Path, size: tuple[int, int], dynamic: bool) -> Run:
    try:
        import onnx
        import onnxruntime  # noqa: F401 (the comparison needs it)
    except ModuleNotFoundError as e:
        raise ImportError(_missing(e.name)) from e
    rows, columns = (1, 2) if made.metadata.preprocess else (2, 3)
    free = {rows: "height", columns: "width"} | ({0: "batch"} if made.batch else {})
    axes = {"images": free} | dict.fromkeys(made.outputs, {}) if dynamic else None
    with _silence(), torch.inference_mode():
        torch.onnx.export(
            made.graph,
            (picture(made.metadata, 1, *size),),
            str(path),
            input_names=["images"],
            output_names=list(made.outputs),
            opset_version=OPSET,
            dynamic_axes=axes,
            dynamo=False,
        )
    model = onnx.load(str(path))
    model.metadata_props.add(key=KEY, value=made.metadata.to_json())
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return onnx_run(path)


def onnx_run(path: Path) -> Run:
    """An ONNX file in ONNX Runtime on the CPU."""
    session = open_session(path)
    return lambda images: session.run(None, {"images": images})


def _write_openvino(made: Exportable, path: Path, size: tuple[int, int], dynamic: bool) -> Run:
    try:
        import openvino
    except ModuleNotFoundError as e:
        raise ImportError(_missing(e.name)) from e
    source = path.with_name("source.onnx")
    _write_onnx(made, source, size, dynamic)
    model = openvino.convert_model(str(source))
    model.set_rt_info(made.metadata.to_json(), [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        results = compiled(images)
        return [results[i].copy() for i in range(len(made.outputs))]

    return run


def _write_program(made: Exportable, path: Path, size: tuple[int, int], dynamic: bool) -> Run:
    rows, columns = (1, 2) if made.metadata.preprocess else (2, 3)
    free = {i: torch.export.Dim.AUTO for i in (0, rows, columns)} if dynamic else {}
    # A dimension of 1 would be taken for a constant.
    example = picture(made.metadata, 2 if dynamic else 1, *size)
    with _silence(), torch.no_grad():
        program = torch.export.export(made.graph, (example,), dynamic_shapes=(free,), strict=False)
    torch.export.save(program, str(path), extra_files={KEY: made.metadata.to_json()})
    module: Any = torch.export.load(str(path)).module()

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        with torch.no_grad():
            result = module(torch.from_numpy(images))
        return [x.numpy() for x in ([result] if isinstance(result, torch.Tensor) else result)]

    return run


def _missing(package: str | None) -> str:
    extra = "openvino" if package == "openvino" else "fpn_neck[export]"
    return f"the format needs the package {package}: pip install '{extra}'"


@contextmanager
def _silence() -> Iterator[None]:
    """The exporters warn of branches by size, which the comparison finds if they matter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
