"""Private names of torch and torchvision in use: a release that drops one fails here, by name."""

import ast
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from helpers.project import PROJECT
from torch import nn

MODULE, FAST = "torch.nn.modules.module", "fpn_neck/fast/eligible.py"
PRODUCTS = "fpn_neck/fast/cpu/products.py"
# (module, name in it, file that needs it)
NAMES = [
    (MODULE, "_global_forward_pre_hooks", FAST),
    (MODULE, "_global_forward_hooks", FAST),
    (MODULE, "_global_backward_pre_hooks", FAST),
    (MODULE, "_global_backward_hooks", FAST),
    ("torch", "_C._len_torch_dispatch_stack", FAST),
    ("torch", "_C._len_torch_function_stack", FAST),
    ("torch", "_C._is_any_autocast_enabled", FAST),
    ("torch", "_C._is_any_autocast_enabled", "fpn_neck/fast/memory_format.py"),
    ("torch", "_C._functorch.peek_interpreter_stack", FAST),
    ("torch", "_C._functorch.is_legacy_batchedtensor", FAST),
    ("torch.autograd.forward_ad", "_current_level", FAST),
    ("torch.overrides", "_get_current_function_mode_stack", FAST),
    ("torch.utils._device", "DeviceContext", FAST),
    ("torch", "_assert_async", "fpn_neck/strips/labels.py"),
    ("torch", "_C._nn.upsample_nearest2d", "fpn_neck/models/fpn.py"),
    ("torch.ops", "mkldnn._reorder_convolution_weight", PRODUCTS),
    ("torch.ops", "mkldnn._convolution_pointwise", PRODUCTS),
    ("torch.ops", "mkldnn.data_ptr", PRODUCTS),
    ("torch.ops", "mkldnn._nbytes", PRODUCTS),
    ("torch.nn.modules.batchnorm", "_BatchNorm", "fpn_neck/models/tiled_head.py"),
    ("torch.nn.modules.batchnorm", "_BatchNorm", "fpn_neck/models/timm_backbone.py"),
    (
        "torchvision.models._utils",
        "IntermediateLayerGetter",
        "fpn_neck/models/torchvision_backbone.py",
    ),
]
OPERATORS = [  # of torchvision, in torch.ops
    ("roi_align", "fpn_neck/mm/mmcv_ops/roi_align.py"),
    ("_roi_align_backward", "fpn_neck/mm/mmcv_ops/roi_align.py"),
    ("_roi_pool_backward", "fpn_neck/mm/mmcv_ops/roi_pool.py"),
    ("_deform_conv2d_backward", "fpn_neck/mm/mmcv_ops/deform_conv.py"),
]
ATTRIBUTES = [  # of every module
    (name, FAST)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
] + [("_apply", "fpn_neck/models/layers.py")]


def names_of(file):
    """All names that a file of the package uses."""
    nodes = list(ast.walk(ast.parse((PROJECT / file).read_text())))
    parts = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    return parts | {a.name for n in imports for a in n.names} | {n.module for n in imports}


@pytest.mark.parametrize(("module", "name", "file"), NAMES)
def test_torch_has(module, name, file):
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    found = import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{file} needs {module}.{name}, which is not there"
        found = getattr(found, part)
    assert name.rpartition(".")[2] in names_of(file), f"{file} no longer needs {name}"


@pytest.mark.parametrize(("name", "file"), OPERATORS)
def test_torchvision_has_the_operator(name, file):
    pytest.importorskip("torchvision")
    known = hasattr(torch.ops.torchvision, name)
    assert known, f"{file} needs torch.ops.torchvision.{name}, which is not there"
    assert name in names_of(file), f"{file} no longer needs {name}"


@pytest.mark.parametrize(("name", "file"), ATTRIBUTES)
def test_modules_have(name, file):
    assert hasattr(nn.Conv2d(1, 1, 1), name), f"{file} needs nn.Module.{name}, which is not there"
    assert name in names_of(file), f"{file} no longer needs {name}"


def test_convolutions_call_conv_forward():
    """`fpn_neck.fast.eligible.is_unmodified` looks for a replaced one."""
    assert callable(nn.Conv2d._conv_forward)


def private_names(tree):
    """Dotted names of torch and torchvision with a private part, e.g. torch._C._functorch."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            dotted = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
        for name in dotted:
            first, *parts = name.split(".")
            if first in ("torch", "torchvision") and all(part.isidentifier() for part in parts):
                private = [part.startswith("_") and not part.endswith("__") for part in parts]
                if any(private):
                    yield name


def test_every_private_name_is_listed_here():
    listed = [f"{module}.{name}" for module, name, _ in NAMES]
    listed += [f"torch.ops.torchvision.{name}" for name, _ in OPERATORS]
    for path in sorted((PROJECT / "fpn_neck").rglob("*.py")):
        for name in private_names(ast.parse(path.read_text())):
            known = any(f"{full}.".startswith(f"{name}.") for full in listed)
            assert known, f"{path.name} uses {name}: list it here"
