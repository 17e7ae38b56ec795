"""Configs with unknown keys and wrong types: built as they should be, or refused by name."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.fuzzing import JUNK, REFUSED, RIGHT, refusal_of
from hypothesis import strategies as st

pytest.importorskip("mmseg")

from helpers.project import PROJECT  # noqa: E402
from mmengine.config import Config  # noqa: E402

from fpn_neck import registry  # noqa: E402
from fpn_neck.datasets.check.findings import RefusedData  # noqa: E402
from fpn_neck.mm.before_run import check_data  # noqa: E402
from fpn_neck.mm.config.data_sources import check_files  # noqa: E402
from fpn_neck.mm.prepare import prepare_training  # noqa: E402

junk = st.sampled_from([j for j in JUNK if not isinstance(j, (torch.Tensor, range))])

HEAD = {"feature_strides": [4, 8], "channels": 4, "merge": "add", "loss_stride": 1}
HEAD |= {"conv_cfg": None, "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}}
HEAD |= {"align_corners": False, "in_channels": [4, 4], "in_index": [0, 1], "num_classes": 3}
NECK = {"in_channels": [2, 3], "out_channels": 4, "num_outs": 2, "add_extra_convs": False}
NECK |= {"norm_cfg": None, "upsample_cfg": {"mode": "nearest"}, "smooth": "merged"}
RESNET = {"type": "mmseg.ResNet", "depth": 18, "base_channels": 4}
LOSS = {"class_weight": [1, 2, 3], "ignore_index": 255, "loss_weight": 1.0, "loss_name": "loss_x"}
# Every part that a config of this package names, with right values of its own arguments.
PARTS = [
    (registry.MODELS, "FPN", NECK),
    (registry.MODELS, "FPNHead", HEAD),
    (registry.MODELS, "DiceLoss", LOSS | {"absent_classes": False, "eps": 1e-3}),
    (registry.MODELS, "CrossEntropyLoss", LOSS | {"avg_non_ignore": True}),
    (registry.MODELS, "SelectLevels", {"indices": [0, 1]}),
    (registry.MODELS, "PyramidBackbone", {"backbone": RESNET, "neck": {"out_channels": 4}}),
    (registry.HOOKS, "PicturesHook", {"count": 3, "with_photo": True}),
    (registry.HOOKS, "SummaryHook", {}),
    (registry.HOOKS, "FiniteLossHook", {"skip": False}),
    (registry.HOOKS, "RuntimeInfoHook", {"interval": 1}),
    (registry.HOOKS, "RandomnessHook", {}),
    (registry.HOOKS, "TerminationHook", {}),
    (registry.HOOKS, "ValidationHook", {}),
    (registry.DATASETS, "ShapesDataset", {"split": "train"}),
    (registry.DATASETS, "ClothingDataset", {"split": "all"}),
    (registry.TRANSFORMS, "PasteRareLabels", {"max_photos": 9, "prob": 0.5}),
    (registry.METRICS, "OccurringIoUMetric", {"background": 0}),
    (registry.METRICS, "SuperClassIoUMetric", {"background": 0}),
]
NEEDED = {"FPN": {"in_channels"}, "SelectLevels": {"indices"}, "PyramidBackbone": {"backbone"}}
NEEDED |= {"FPNHead": {"feature_strides", "channels", "in_channels", "num_classes", "in_index"}}
NEEDED |= {"PasteRareLabels": {"max_photos"}}
NEEDED |= {"ShapesDataset": {"split"}, "ClothingDataset": {"split"}}
EXTRA = {"ShapesDataset": {"lazy_init": True}, "ClothingDataset": {"lazy_init": True}}
EXTRA |= {"FPNHead": {"loss_decode": {"type": "mmseg.CrossEntropyLoss"}}}
# What may be accepted: the rest must be refused when it is built.
RULES = {
    "split": lambda v: v in ("train", "val", "all", "choosing", "reporting"),
    "max_photos": lambda v: type(v) in (int, np.int64) and v > 0,
    "prob": lambda v: not isinstance(v, bool) and 0 <= v <= 1,
    "count": lambda v: type(v) in (int, np.int64) and v > 0,
    "with_photo": lambda v: isinstance(v, bool),
    "skip": lambda v: isinstance(v, bool),
    "interval": lambda v: v is None or type(v) in (int, np.int64) and v > 0,
    "background": lambda v: type(v) in (int, np.int64) and v >= 0,
    "loss_stride": lambda v: type(v) in (int, np.int64) and v > 0,
}
MEETS = {"in_channels": {"num_outs", "strides"}, "strides": {"in_channels"}}
MEETS |= {"feature_strides": {"strides", "in_channels"}, "indices": {"levels"}}
MEETS |= {
    "backbone": {"model_name"},
    "neck": {"FPN"},
    "channels": {"num_groups"},
    "in_index": {"in_channels"},
}


@st.composite
def parts(draw):
    """(registry, type, arguments, name of the wrong one)"""
    of, kind, right = draw(st.sampled_from(PARTS))
    args, wrong = dict(right), ""
    change = draw(st.sampled_from(["nothing", "wrong", "unknown", "missing"]))
    if change == "unknown" and not kind.endswith("IoUMetric"):  # mmseg's takes any
        wrong = draw(st.sampled_from(["no_such", "in_chanels", "Count", "_x", "lr"]))
        args[wrong] = draw(junk)
    elif args and change == "wrong":
        wrong = draw(st.sampled_from(sorted(args)))
        args[wrong] = draw(junk)
    elif args and change == "missing":
        wrong = draw(st.sampled_from(sorted(args)))
        del args[wrong]
        wrong = wrong if wrong in NEEDED.get(kind, ()) else ""
    return of, kind, args, wrong


def check_part(case):
    of, kind, args, wrong = case
    known = next(right for _, name, right in PARTS if name == kind)
    blamed = {wrong, *MEETS.get(wrong, ()), "takes no arguments"} if wrong else set()
    with refusal_of(blamed) as refused:
        part = of.build({"type": f"fpn_neck.{kind}", **args, **EXTRA.get(kind, {})})
        assert not wrong or (wrong in known and wrong in args), f"{wrong} was taken, or not missed"
        assert wrong not in RULES or RULES[wrong](args[wrong]), f"{args[wrong]!r} was taken"
        if kind in ("FPN", "FPNHead"):
            channels = args["in_channels"]
            part.eval()([torch.ones(1, c, 8 >> i, 8 >> i) for i, c in enumerate(channels)])
        elif isinstance(part, torch.nn.Module) and "Loss" in kind:
            assert part(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long()).isfinite()
    return REFUSED if refused else RIGHT


@pytest.mark.parametrize("examples", [200, pytest.param(3_000, marks=pytest.mark.slow)])
def test_parts_of_a_config_are_built_or_name_what_is_wrong(fuzz, examples):
    fuzz(examples, parts(), check_part)


# Whole configs, up to the moment at which mmengine's Runner is built ------------------------------


def base_config():
    recipe = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
    return Config.fromfile(recipe).to_dict()


def paths_of(part, path=()):
    """Every place in a config that holds a value."""
    if path:
        yield path
    items = part.items() if isinstance(part, dict) else enumerate(part)
    if isinstance(part, (dict, list, tuple)):
        for key, value in items:
            yield from (
                paths_of(value, (*path, key))
                if isinstance(value, (dict, list, tuple))
                else [(*path, key)]
            )


def with_value(part, path, value, delete):
    """A copy with another value at a path, or none."""
    if not path:
        return value
    new = dict(part) if isinstance(part, dict) else list(part)
    if delete and len(path) == 1:
        del new[path[0]]
    else:
        new[path[0]] = with_value(part[path[0]], path[1:], value, delete)
    return new


# What a config file can hold.
values = st.sampled_from([j for j in JUNK if isinstance(j, (str, int, list, dict, type(None)))])


@st.composite
def configs(draw, base, paths):
    """(config, path of what was changed; empty if nothing was)"""
    change = draw(st.sampled_from(["nothing", "nothing", "wrong", "wrong", "wrong", "missing"]))
    if change == "nothing":
        return base, ()
    near = [path for path in paths if len(path) <= 2]  # where a whole section changes its type
    path = draw(st.sampled_from(near) | st.sampled_from(paths))
    return with_value(base, path, draw(values), change == "missing"), path


@pytest.fixture
def check_config(tmp_path, shapes):
    """What tools/train.py does with a config file before it builds anything."""
    file = tmp_path / "changed.py"
    args = Namespace(config=str(file), work_dir=str(tmp_path), cfg_options=None, launcher="none")
    args.device = "auto"
    args.allow_mismatch = args.skip_nan = args.no_check = False
    args.auto_scale_lr = args.tensorboard = True
    args.amp = args.resume = None

    def check(case):
        content, path = case
        file.write_text("\n".join(f"{key} = {value!r}" for key, value in content.items()))
        try:
            cfg = prepare_training(args)
            check_files(cfg, args.config, "train", "val")
            check_data(cfg, "train", "val")
        except RefusedData as refused:
            assert path, refused.brief()
            return REFUSED
        except (
            ValueError,
            TypeError,
            OSError,
            ImportError,
        ) as error:  # one line for the user; else a crash
            assert path, error
            # mmengine's own words for a file that it can't read at all.
            named = [*map(str, path), f"config {file}: not a config"]
            assert any(name in str(error) for name in named), f"none of {named}: {error}"
            return REFUSED
        return RIGHT

    return check


@pytest.mark.parametrize("examples", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_a_changed_config_passes_or_names_the_section(fuzz, check_config, examples):
    base = base_config()
    base["auto_scale_lr"] = {"enable": False, "base_batch_size": 16}
    fuzz(examples, configs(base, list(paths_of(base))), check_config)
