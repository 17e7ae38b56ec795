"""Packages, the mm stack, its operators, the GPU and the registries; runs with torch only."""

from __future__ import annotations

import platform
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from fpn_neck import __version__
from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.cli.doctor.serve_operators import are_served
from fpn_neck.fast.cpu import processor
from fpn_neck.fast.cpu.threads import available_threads
from fpn_neck.mm import mmcv_ops
from fpn_neck.utils.text import one_line

INSTALL_MM = "pip install 'fpn_neck[mm]'"
# Import name: the distributions that contain it, and what installs it.
PACKAGES = {
    "torch": (("torch",), "pip install torch"),
    "torchvision": (("torchvision",), "pip install 'fpn_neck[torchvision]'"),
    "timm": (("timm",), "pip install 'fpn_neck[timm]'"),
    "mmengine": (("mmengine", "onedl-mmengine"), INSTALL_MM),
    "mmcv": (("mmcv", "mmcv-lite", "onedl-mmcv"), INSTALL_MM),
    "mmdet": (("mmdet", "onedl-mmdetection"), INSTALL_MM),
    "mmseg": (("mmsegmentation", "onedl-mmsegmentation"), INSTALL_MM),
    "numpy": (("numpy",), "pip install numpy"),
}
STACK = ("mmengine", "mmcv", "mmdet", "mmseg")
# The part to import: some packages can be imported and their parts can't.
_PARTS = {"mmcv": "mmcv.ops", "mmdet": "mmdet.models", "mmseg": "mmseg.models"}
# Module: the package that contains it, under another name.
_SOURCES = {"pkg_resources": "'setuptools<81'", "cv2": "opencv-python-headless", "PIL": "pillow"}


def examine_environment() -> list[Section]:
    """All sections that need no config."""
    return [_versions(), _platform(), _scopes()]


def installed(package: str) -> dict[str, str]:
    """{distribution: version} of all distributions that contain the package."""
    found = {}
    for name in PACKAGES[package][0]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if not found and find_spec(package):
        found[package] = "of unknown version"
    return found


def _versions() -> Section:
    section = Section("versions")
    section.rows = [("fpn_neck", __version__), ("python", platform.python_version())]
    for package, (_, remedy) in PACKAGES.items():
        found = installed(package)
        text = ", ".join(v if k == package else f"{v} ({k})" for k, v in found.items())
        section.rows.append((package, text or f"missing: {remedy}"))
        if len(found) > 1:
            section.problems.append(
                Problem(
                    f"{package} comes from {' and '.join(found)}, which overwrite each other",
                    f"pip uninstall {' '.join(found)}, then install one of them",
                )
            )
        elif found and (problem := _import_problem(package)):
            section.problems.append(problem)
    return section


def _import_problem(package: str) -> Problem | None:
    try:
        import_module(_PARTS.get(package, package))
        return None
    except Exception as e:  # other people's packages fail in any way
        what = f"{package} is installed and cannot be imported: {one_line(e, with_type=True)}"
        return Problem(what, _remedy(package, e))


def _remedy(package: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return PACKAGES[name][1] if name in PACKAGES else f"pip install {_SOURCES.get(name, name)}"
    if package == "torchvision":  # "operator torchvision::nms does not exist"
        return "pip install --upgrade torch torchvision, of one release"
    if package in STACK and len(installed("mmcv")) == 1:  # of another version, or another torch
        return f"pip uninstall {' '.join(installed('mmcv'))}, then {INSTALL_MM}: versions that fit"
    return PACKAGES[package][1]


def _platform() -> Section:
    section = Section("what runs where")
    section.rows = [("stack", _stack(section)), ("mmcv's operators", _operators())]
    section.rows += [("processor", _processor()), ("GPU", _gpu(section))]
    return section


def _stack(section: Section) -> str:
    names = [name for package in STACK for name in installed(package)]
    forks = [name for name in names if name.startswith("onedl-")]
    if not names:
        return f"none: {INSTALL_MM}"
    if forks and len(forks) < len(names):
        section.problems.append(
            Problem(
                f"OneDL's forks and upstream's packages are mixed: {', '.join(names)}",
                f"a fresh environment with {INSTALL_MM}, or with '.[onedl]' only",
            )
        )
        return "mixed"
    return "OneDL's forks" if forks else "upstream"


def _operators() -> str:
    if not find_spec("mmcv"):
        return "none: mmcv is missing"
    if mmcv_ops.install():
        return "fpn_neck's bridge to torchvision's (mmcv came without its compiled extension)"
    if are_served():
        return "fpn_neck's, by mmcv/_ext.py (doctor --serve-ops off removes it)"
    return "mmcv's own compiled extension"


def _processor() -> str:
    """And what the fast 3x3 convolution takes for its products there."""
    library = "MKL" if torch.backends.mkl.is_available() else "torch.bmm"
    if processor.limits().onednn_channels is not None:
        library = "oneDNN"
    threads = torch.get_num_threads()
    shared = "one part each" if available_threads() == threads else "every operator shared"
    return (
        f"{processor.vendor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; "
        f"fast 3x3 by {library}, threads: {threads}, {shared}"
    )


def _gpu(section: Section) -> str:
    if torch.cuda.is_available():
        each = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        names = [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in each]
        return f"{'; '.join(names)}; CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple's, as device 'mps'"
    if shutil.which("nvidia-smi") and torch.version.hip is None:
        section.problems.append(
            Problem(
                f"there is an NVIDIA driver, and torch {torch.__version__} can't use a GPU "
                f"(built for {_built_for()})",
                "run nvidia-smi; install the torch that pytorch.org/get-started names for the "
                "CUDA version it shows, or a newer driver",
            )
        )
    return f"none; torch is built for {_built_for()}"


def _built_for() -> str:
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"


def _scopes() -> Section:
    section = Section("registry scopes")
    for framework in ("mmdet", "mmseg"):
        if not installed(framework):
            section.rows.append((framework, "missing"))
            continue
        try:
            found = import_module(f"{framework}.registry").MODELS.get("fpn_neck.FPN")
        except Exception as e:
            section.rows.append(
                (framework, f"fpn_neck.FPN does not resolve: {one_line(e, with_type=True)}")
            )
            continue  # the section of the versions names the cause
        if found is None:
            section.rows.append((framework, "fpn_neck.FPN does not resolve"))
            section.problems.append(
                Problem(
                    f"{framework}'s registry does not find fpn_neck.FPN",
                    "custom_imports = dict(imports=['fpn_neck']) in the config",
                )
            )
        else:
            name = f"{found.__module__}.{found.__qualname__}"
            section.rows.append((framework, f"fpn_neck.FPN is {name}"))
    return section
