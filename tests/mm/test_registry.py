"""``type='fpn_neck.<name>'`` in every framework, each time in a fresh interpreter.

mmengine's registries are global: a name that was found once is found again. So only the first
look-up of a process proves anything.
"""

import importlib.util
from importlib.machinery import PathFinder
from importlib.metadata import distributions

import numpy as np
import pytest
import torch

for _package in ("mmengine", "mmcv", "mmdet", "mmseg", "timm"):
    pytest.importorskip(_package)

INSTALLED = {d.name for d in distributions()}

# Every registry under every default scope, starting with FIRST.
MATRIX = """
import warnings
warnings.simplefilter("ignore")
from importlib import import_module
from mmengine.registry import DefaultScope

NAMES = {
    "MODELS": ["FPN", "FPNHead", "TimmBackbone", "DiceLoss"],
    "DATASETS": ["ClothingDataset", "NineClothingDataset", "ShapesDataset"],
    "METRICS": ["OccurringIoUMetric", "SuperClassIoUMetric"],
    "TRANSFORMS": ["PasteRareLabels"],
    "HOOKS": ["PicturesHook", "SummaryHook"],
}
SCOPES = [FIRST[1], *[s for s in (None, "mmdet", "mmseg", "mmengine") if s != FIRST[1]]]
FRAMEWORKS = [FIRST[0], *[f for f in ("mmengine", "mmdet", "mmseg") if f != FIRST[0]]]

for scope in SCOPES:
    for framework in FRAMEWORKS:
        registry = import_module(f"{framework}.registry")
        with DefaultScope.overwrite_default_scope(scope):
            for kind, names in NAMES.items():
                for name in names:
                    found = getattr(registry, kind).get(f"fpn_neck.{name}")
                    where = (scope, framework, kind, name)
                    assert found is not None and found.__name__ == name, where
                    assert found.__module__.startswith("fpn_neck."), where
            neck = registry.MODELS.build(
                dict(type="fpn_neck.FPN", in_channels=[4, 8], out_channels=4)
            )
            assert type(neck).__module__ == "fpn_neck.models.fpn", where
print("matrix complete")
"""

RUNNERS = """
from mmengine.runner import Runner
for scope in ("mmdet", "mmseg", "mmengine"):
    runner = Runner(
        model=dict(type="fpn_neck.FPN", in_channels=[4, 8], out_channels=4),
        work_dir=WORK_DIR,
        default_scope=scope,
        experiment_name=f"registry_{scope}",
        custom_hooks=[dict(type="fpn_neck.SummaryHook")],
        log_level="ERROR",
    )
    assert type(runner.model).__module__ == "fpn_neck.models.fpn", scope
    assert "SummaryHook" in [type(h).__name__ for h in runner.hooks], scope
print("runners complete")
"""

UNTOUCHED = """
import mmdet.registry, mmseg.registry
for framework, names in {"mmdet": ["FPN", "DiceLoss"], "mmseg": ["FPN", "FPNHead"]}.items():
    for name in names:
        found = import_module(f"{framework}.registry").MODELS.get(name)
        assert found.__module__.startswith(f"{framework}."), (framework, name, found)
print("names complete")
"""


def needs_our_operators(framework):
    """Whether mmcv came without its compiled extension, which upstream's frameworks import.

    OneDL's mmseg imports without it.
    """
    mmcv = importlib.util.find_spec("mmcv")
    if PathFinder.find_spec("mmcv._ext", mmcv.submodule_search_locations):
        return False
    return framework == "mmdet" or "onedl-mmsegmentation" not in INSTALLED


@pytest.mark.parametrize(
    ("opening", "first"),
    [
        ("import fpn_neck", ("mmdet", "mmdet")),
        ("import fpn_neck", ("mmengine", "mmseg")),
        # mmengine's root registry imports our package first, so nothing needs to be imported.
        ("", ("mmengine", None)),
        ("custom_imports", ("mmseg", "mmseg")),
    ],
)
def test_resolves_everywhere(run_python, tmp_path, opening, first):
    if opening == "custom_imports":
        config = tmp_path / "config.py"
        config.write_text("custom_imports = dict(imports=['fpn_neck'])\n")
        opening = f"from mmengine.config import Config; Config.fromfile({str(config)!r})"
    code = f"{opening}\nFIRST = {first!r}\nWORK_DIR = {str(tmp_path)!r}\n"
    out = run_python(code + MATRIX + UNTOUCHED + RUNNERS)
    assert [line for line in out.splitlines() if line.endswith(" complete")] == [
        "matrix complete",
        "names complete",
        "runners complete",
    ]


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
def test_without_the_import_mmcv_lite_stops_the_framework_itself(run_python, framework):
    """The line to write is ``import fpn_neck`` or ``custom_imports``; a compiled mmcv needs none.

    mmdet imports its own models before it looks at ours, and they need mmcv's operators.
    """
    out = run_python(
        f"from {framework}.registry import MODELS\n"
        "try:\n"
        "    print(MODELS.get('fpn_neck.FPN').__module__)\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    expected = "mmcv._ext" if needs_our_operators(framework) else "fpn_neck.models.fpn"
    assert out.split()[-1] == expected


@pytest.mark.parametrize("framework", ["mmdet", "mmseg"])
def test_importing_the_package_makes_the_frameworks_importable(run_python, framework):
    out = run_python(f"import fpn_neck\nimport {framework}.models as m\nprint(m.__name__)")
    assert out.split()[-1] == f"{framework}.models"


def test_an_unknown_name_of_our_scope_is_refused(run_python):
    out = run_python(
        "from mmengine.registry import MODELS\n"
        "try:\n"
        "    MODELS.build(dict(type='fpn_neck.NoSuchThing'))\n"
        "except KeyError as error:\n"
        "    print('KeyError', 'fpn_neck.NoSuchThing' in str(error))\n"
    )
    assert out.splitlines()[-1] == "KeyError True"


# ------------------------------------------------------------------------ mmengine's checkpoints


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def checkpoint(tmp_path):
    """What mmengine 0.10 puts in a checkpoint beside the weights."""
    from mmengine.logging import HistoryBuffer

    info = {"best": np.float64(1.5), "iter": np.int64(3), "flag": np.bool_(True), "name": "a"}
    hub = {"log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}, "runtime_info": info}
    content = {"state_dict": {"w": torch.ones(2)}, "message_hub": hub, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "mmengine.pth")
    return tmp_path / "mmengine.pth"


@pytest.mark.parametrize(
    "opening",
    [
        "import fpn_neck.mm.registry",
        "import fpn_neck.mm.config.load",
        "from mmengine.registry import MODELS; MODELS.get('fpn_neck.FPN')",
    ],
)
def test_mmengine_reads_its_own_checkpoints_and_still_no_code(
    run_python, tmp_path, checkpoint, opening
):
    from mmengine.logging import HistoryBuffer

    evil = {
        "open": Call(open, str(tmp_path / "executed"), "w"),
        "getattr": Call(getattr, HistoryBuffer, "register_statistics"),  # allowed for its data only
        "getattr of another class": Call(getattr, dict, "mean"),
    }
    for name, content in evil.items():
        torch.save({"state_dict": content}, tmp_path / f"{name}.pth")
    out = run_python(
        f"{opening}\n"
        "from mmengine.runner.checkpoint import CheckpointLoader\n"
        f"content = CheckpointLoader.load_checkpoint({str(checkpoint)!r})\n"
        "history, count = content['message_hub']['log_scalars']['train/loss'].data\n"
        "print(history.tolist(), count.tolist(), content['message_hub']['runtime_info']['best'])\n"
        f"for name in {list(evil)!r}:\n"
        "    try:\n"
        f"        CheckpointLoader.load_checkpoint({str(tmp_path)!r} + f'/{{name}}.pth')\n"
        "    except ValueError:\n"
        "        print('refused', name)\n"
    )
    assert [line for line in out.splitlines() if line.startswith(("[", "refused"))] == [
        "[1.0, 2.0] [1, 1] 1.5",
        *(f"refused {name}" for name in evil),
    ]
    assert not (tmp_path / "executed").exists()


def test_bytes_in_a_checkpoint_do_not_become_addresses(run_python, tmp_path):
    """``numpy.ndarray(shape, "O", bytes)`` would."""
    path = tmp_path / "evil.pth"
    torch.save({"w": Call(np.ndarray, (1,), "O", b"\x01" * 8)}, path)
    out = run_python(
        "import pickle, torch, fpn_neck.mm.registry\n"
        "try:\n"
        f"    torch.load({str(path)!r})\n"
        "except pickle.UnpicklingError:\n"
        "    print('refused')\n"
    )
    assert out.splitlines()[-1] == "refused"
