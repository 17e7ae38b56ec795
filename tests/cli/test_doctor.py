"""python -m fpn_neck doctor: what it says, what it finds wrong, and its exit codes."""

import importlib.metadata
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from helpers.project import PROJECT
from torch import nn

import fpn_neck
from fpn_neck import FPN
from fpn_neck.cli.doctor.levels import ChannelsDiffer, Level, measure_levels
from fpn_neck.cli.doctor.section import Problem, Section

DEMO = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"


@pytest.fixture
def run(run_words, tmp_path):
    """Run python -m fpn_neck; the finished process."""

    def call(*arguments):
        return run_words("-m", "fpn_neck", *arguments, cwd=tmp_path)

    return call


# ------------------------------------------------------------------------------------- pyramid


class Backbone(nn.Module):
    """Maps of the given strides and channels."""

    def __init__(self, strides=(4, 8, 16, 32), channels=(8, 16, 32, 64)):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(3, c, 1, stride=s) for s, c in zip(strides, channels, strict=True)
        )

    def forward(self, x):
        return [conv(x) for conv in self.convs]


CHANNELS = [8, 16, 32, 64]


def made(**options):
    """Levels of an FPN on C2 to C5, for an image of 100 x 200 px."""
    with torch.device("meta"):
        return measure_levels(Backbone(), FPN(CHANNELS, 32, **options), (100, 200))[1]


def test_the_table_of_the_paper():
    assert made(num_outs=5) == [
        Level("P2", 4, 32, (25, 50), "C2 lateral + P3"),
        Level("P3", 8, 32, (13, 25), "C3 lateral + P4"),
        Level("P4", 16, 32, (7, 13), "C4 lateral + P5"),
        Level("P5", 32, 32, (4, 7), "C5 lateral"),
        Level("P6", 64, 32, (2, 4), "max pool of P5"),
    ]


def test_the_backbones_maps_are_measured_too():
    with torch.device("meta"):
        given, levels = measure_levels(Backbone(), None, (100, 200))
    assert levels == []
    assert [(level.name, level.stride, level.channels) for level in given] == [
        *(("C2", 4, 8), ("C3", 8, 16), ("C4", 16, 32), ("C5", 32, 64))
    ]
    assert given[1].size == (13, 25) and given[1].source == "Backbone"


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        (dict(add_extra_convs="on_input"), ["conv of C5", "conv of P6"]),
        (dict(add_extra_convs="on_lateral"), ["conv of C5 lateral", "conv of P6"]),
        (dict(add_extra_convs="on_output"), ["conv of P5", "conv of P6"]),
        (
            dict(add_extra_convs=True, relu_before_extra_convs=True),
            ["conv of C5", "conv of ReLU of P6"],
        ),
        (dict(), ["max pool of P5", "max pool of P6"]),
    ],
)
def test_sources_of_extra_levels(options, sources):
    levels = made(num_outs=5, start_level=1, **options)
    assert [level.name for level in levels] == ["P3", "P4", "P5", "P6", "P7"]
    assert [level.stride for level in levels] == [8, 16, 32, 64, 128]
    assert [level.source for level in levels[3:]] == sources


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        (dict(top_down=False), ["C2 lateral", "C3 lateral", "C4 lateral", "C5 lateral"]),
        (dict(laterals=False), ["P3", "P4", "P5", "C5 lateral"]),
        (dict(start_level=1, end_level=2), ["C3 lateral + P4", "C4 lateral"]),
    ],
)
def test_sources_of_ablations(options, sources):
    assert [level.source for level in made(**options)] == sources


def test_mmdets_and_mmsegs_necks_have_the_same_table():
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    from mmdet.models.necks import FPN as MMDetFPN
    from mmseg.models.necks import FPN as MMSegFPN

    options = dict(num_outs=5, start_level=1, add_extra_convs="on_output")
    for kind in (MMDetFPN, MMSegFPN):
        with torch.device("meta"):
            theirs = measure_levels(Backbone(), kind(CHANNELS, 32, **options), (100, 200))[1]
        assert theirs == made(**options)


def test_a_neck_of_other_channels_is_named():
    with torch.device("meta"), pytest.raises(ChannelsDiffer, match=r"\[1, 2\].*\[8, 16, 32, 64\]"):
        measure_levels(Backbone(), FPN([1, 2], 32), (100, 200))


def test_images_have_the_channels_that_the_backbone_takes():
    with torch.device("meta"):
        grey = torch.nn.Conv2d(1, 8, 4, stride=4)
        (level,), _ = measure_levels(grey, None, (64, 96))
    assert level.size == (16, 24)


LEVELS = [Level(f"P{i}", 1 << i, 32, (1, 1), "") for i in range(2, 7)]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            {"rpn_head": {"type": "R", "anchor_generator": {"strides": [4, 8, 16, 32]}}},
            r"rpn_head\.anchor_generator\.strides=\[4, 8, 16, 32\].*\[4, 8, 16, 32, 64\]",
        ),
        (
            {"roi_head": {"bbox_roi_extractor": {"featmap_strides": [8, 16]}}},
            r"bbox_roi_extractor\.featmap_strides=\[8, 16\], .* P2, P3 is \[4, 8\]",
        ),
        (
            {"decode_head": {"type": "H", "in_index": [0, 1], "in_channels": [32, 64]}},
            r"decode_head\.in_channels=\[32, 64\], and the channels of P2, P3 is \[32, 32\]",
        ),
        (
            {"decode_head": {"type": "H", "in_index": [0, 1], "feature_strides": [8, 16]}},
            r"decode_head\.feature_strides=\[8, 16\]",
        ),
        ({"decode_head": {"type": "H", "in_index": [3, 5]}}, r"in_index=\[3, 5\].*5 levels"),
    ],
)
def test_heads_that_do_not_fit_the_pyramid(model, problem):
    pytest.importorskip("PIL")
    from fpn_neck.cli.doctor.head_inputs import check_heads

    (found,) = check_heads(model, LEVELS)
    assert re.search(problem, found.what)
    assert found.remedy


def test_heads_that_fit_the_pyramid():
    pytest.importorskip("PIL")
    from fpn_neck.cli.doctor.head_inputs import check_heads

    model = {
        "rpn_head": {"type": "R", "anchor_generator": {"strides": [4, 8, 16, 32, 64]}},
        "bbox_head": {
            "type": "B",
            "prior_generator": {"strides": [(2**i,) * 2 for i in range(2, 7)]},
        },
        "roi_head": {"bbox_roi_extractor": {"featmap_strides": [4, 8, 16, 32]}},
        "decode_head": {
            "type": "H",
            "in_index": [0, 2],
            "in_channels": [32, 32],
            "feature_strides": [4, 16],
        },
    }
    assert check_heads(model, LEVELS) == []


# ------------------------------------------------------------------------------------ environment


def test_a_section_lines_its_columns_up():
    pytest.importorskip("rich")
    section = Section("title", [("a", "bbb", "c"), ("aaa", "b", "c")], [Problem("x", "y")])
    assert section.text() == "title\n  a    bbb  c\n  aaa  b    c"
    section.header = ("one", "two", "three")
    assert section.text().splitlines()[1] == "  one  two  three"


def test_no_cell_is_cut_and_none_is_read_as_markup():
    pytest.importorskip("rich")
    remedy = "pip install 'fpn_neck[mm]' :smile: [red]x[/red]"
    section = Section("title", [("a", "b" * 300), ("c", remedy)])
    assert section.text() == f"title\n  a  {'b' * 300}\n  c  {remedy}"
    lines = section.text(width=20).splitlines()
    assert max(map(len, lines)) <= 20 and "".join(lines).count("b") == 300


def test_without_rich_a_row_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert Section("title", [("a", "bbb"), ("aaa", "b")]).text() == "title\n  a  bbb\n  aaa  b"


def version_line(text, package):
    (line,) = re.findall(rf"^  {package} +(.+)$", text.partition("\n\n")[0], re.M)
    return line


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory):
    """A folder with torch and what it declares to need, linked: no other package is there."""
    requirements = pytest.importorskip("packaging.requirements")
    folder, queue, seen = tmp_path_factory.mktemp("torch_alone"), ["torch"], set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in found.files or [] if ".." not in file.parts}:
            source, link = Path(found.locate_file(top)), folder / top
            if source.exists() and not link.exists() and top != "__pycache__":
                link.symlink_to(source)
        for text in found.requires or []:
            requirement = requirements.Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(requirement.name)
    return folder


def alone(folder, *arguments):
    """Run the command in that folder's Python: no site-packages, nothing but our code and torch."""
    env = {"PATH": "", "PYTHONPATH": os.pathsep.join([str(PROJECT), str(folder)])}
    command = [sys.executable, "-S", "-m", "fpn_neck", "doctor", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_with_torch_alone_the_rest_is_said_to_be_missing(torch_alone):
    done = alone(torch_alone)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {p: version_line(done.stdout, p) for p in ("torch", "torchvision", "timm", "mmdet")}
    assert lines["torch"] == importlib.metadata.version("torch")
    assert lines["torchvision"] == "missing: pip install 'fpn_neck[torchvision]'"
    assert lines["timm"] == "missing: pip install 'fpn_neck[timm]'"
    assert lines["mmdet"] == "missing: pip install 'fpn_neck[mm]'"
    assert "stack  none" in done.stdout
    assert "nothing is wrong" in done.stdout


def test_with_torch_alone_a_config_is_too_much(torch_alone):
    done = alone(torch_alone, DEMO)
    assert done.returncode == 1, done.stderr
    assert "mmengine is missing" in done.stdout
    assert "remedy: pip install 'fpn_neck[mm]'" in done.stdout


# A package that is installed and doesn't run: its file raises what such a one raises.
BROKEN = {
    "torchvision": (
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "pip install --upgrade torch torchvision",
    ),
    "mmengine": ("import cv2", "pip install opencv-python-headless"),
    "timm": ("import huggingface_hub", "pip install huggingface_hub"),
}


@pytest.mark.parametrize("package", BROKEN)
def test_a_package_that_cannot_be_imported_is_wrong(torch_alone, tmp_path, package):
    text, remedy = BROKEN[package]
    (tmp_path / f"{package}.py").write_text(text)
    done = alone(os.pathsep.join([str(torch_alone), str(tmp_path)]))
    assert done.returncode == 1, done.stdout
    assert f"{package} is installed and cannot be imported" in done.stdout
    assert remedy in done.stdout


def test_two_distributions_of_one_package_are_wrong(torch_alone, tmp_path):
    for name in ("mmcv", "mmcv-lite"):
        folder = tmp_path / f"{name.replace('-', '_')}-2.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n")
    done = alone(os.pathsep.join([str(torch_alone), str(tmp_path)]))
    assert done.returncode == 1, done.stdout
    assert "mmcv comes from mmcv and mmcv-lite" in done.stdout
    assert "remedy: pip uninstall mmcv mmcv-lite" in done.stdout


def test_forks_beside_upstreams_packages_are_wrong(torch_alone, tmp_path):
    for name in ("onedl-mmengine", "mmdet"):
        folder = tmp_path / f"{name.replace('-', '_')}-3.3.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.3.0\n")
    done = alone(os.pathsep.join([str(torch_alone), str(tmp_path)]))
    assert done.returncode == 1, done.stdout
    assert "mixed: onedl-mmengine, mmdet" in done.stdout


# ----------------------------------------------------------------------------------- bad usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["surgeon"], "surgeon"),
        (["doctor", "--size", "8x8"], "CONFIG"),
        (["doctor", DEMO, "--size", "800"], "--size 800"),
        (["doctor", DEMO, "--size", "0x8"], "--size 0x8"),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr and "Traceback" not in done.stderr


# -------------------------------------------------------------------------------------- configs


@pytest.fixture
def examine(tmp_path):
    """Sections of a config of this text, and all problems as one text."""
    for package in ("mmseg", "mmdet", "timm"):
        pytest.importorskip(package)
    from fpn_neck.cli.doctor.config import examine_config

    def examined(text, base=DEMO):
        config = tmp_path / "config.py"
        config.write_text(f"_base_ = {str(base)!r}\n{text}")
        sections = examine_config(str(config))
        problems = [problem for section in sections for problem in section.problems]
        return sections, "\n".join(f"{p.what} -> {p.remedy}" for p in problems)

    return examined


def test_a_good_config_is_shown_and_nothing_is_wrong(run):
    for package in ("mmseg", "timm"):
        pytest.importorskip(package)
    done = run("doctor", DEMO, "--size", "250x330")
    assert done.returncode == 0, done.stdout + done.stderr
    assert version_line(done.stdout, "torch") == importlib.metadata.version("torch")
    assert version_line(done.stdout, "fpn_neck") == fpn_neck.__version__
    assert version_line(done.stdout, "python") in sys.version
    assert "  mmseg  fpn_neck.FPN is fpn_neck.models.fpn.FPN" in done.stdout
    assert "7 classes: background, circle" in done.stdout
    assert re.search(r"model\.decode_head +fpn_neck\.FPNHead +num_classes=7", done.stdout)
    assert "pyramid of an image of 250 x 330 px" in done.stdout
    assert re.search(r"P3 +8 +64 +32x42 +C3 lateral \+ P4\n", done.stdout)
    assert done.stdout.endswith("nothing is wrong\n")


def test_a_config_that_is_none_is_bad_usage(tmp_path):
    pytest.importorskip("mmengine")
    from fpn_neck.cli.doctor.config import examine_config

    (tmp_path / "broken.py").write_text("model = dict(")
    with pytest.raises(ValueError, match=r"broken\.py: not a config"):
        examine_config(str(tmp_path / "broken.py"))
    with pytest.raises(FileNotFoundError, match=r"no/such\.py"):
        examine_config("no/such.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = dict(decode_head=dict(num_classes=9))", ["num_classes=9", "K=7"]),
        ("model = dict(neck=dict(in_channels=[24, 40, 112]))", ["in_channels=[24, 40, 112, 320]"]),
        ("model = dict(neck=dict(out_channels=32))", ["in_channels=[64, 64, 64, 64]", "32, 32"]),
        ("model = dict(neck=dict(type='FPNN'))", ["can't be built", "FPNN", "custom_imports"]),
        ("model = dict(neck=dict(num_outs=2))", ["can't be built", "num_outs=2"]),
        (
            "model = dict(decode_head=dict(feature_strides=[8, 16, 32, 64]))",
            ["feature_strides=[8, 16, 32, 64]", "set it to [4, 8, 16, 32]"],
        ),
        ("model = dict(backbone=dict(model_name='resnet'))", ["can't be built", "resnet"]),
        ("train_dataloader = dict(dataset=dict(type='NoSet'))", ["NoSet"]),
        (
            "val_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b'))))",
            ["K=2", "train and val name different classes"],
        ),
        (
            "custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)",
            ["imports what is not there", "no_such_module"],
        ),
        ("default_scope = 'mmpretrain'", ["default_scope='mmpretrain'", "'mmseg'"]),
        ("model = dict(data_preprocessor=dict(size=(512,)))", ["size=(512,)", "two whole numbers"]),
        ("model = dict(data_preprocessor=dict(size=512))", ["data_preprocessor.size=512"]),
        (
            "val_dataloader = dict(dataset=dict(metainfo=dict(classes=7)))",
            ["val_dataloader.dataset.metainfo", "classes=7"],
        ),
        ("model = dict(neck=None)", ["in_channels=[64, 64, 64, 64]", "C5 is [24, 40, 112, 320]"]),
    ],
)
def test_what_is_wrong_with_a_config(examine, text, words):
    _, problems = examine(text)
    for word in words:
        assert word in problems, (word, problems)


CLASSES = """
from mmcv.transforms import LoadImageFromFile, Resize
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.models import DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from fpn_neck import FPN
pipeline = [
    dict(type=LoadImageFromFile), dict(type=Resize, scale=(320, 240), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True), dict(type=PackDetInputs)]
dataset = dict(
    type=CocoDataset, ann_file='a.json', metainfo=dict(classes=('x', 'y')), pipeline=pipeline)
train_dataloader = dict(batch_size=1, dataset=dataset)
val_dataloader = train_dataloader
test_dataloader = train_dataloader
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, out_indices=(1, 2, 3)),
    neck=dict(type=FPN, in_channels=[128, 256, 512], out_channels=32, num_outs=5),
    bbox_head=dict(
        type=RetinaHead, num_classes=2, in_channels=32, feat_channels=32,
        anchor_generator=dict(
            type=AnchorGenerator, ratios=[1.0], scales=[4], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder)))
"""


def test_a_config_of_classes_is_shown_as_one_of_names(tmp_path):
    """mmengine's Python configs; they need no default_scope."""
    pytest.importorskip("mmdet.models")
    from fpn_neck.cli.doctor.config import examine_config

    (tmp_path / "config.py").write_text(CLASSES)
    sections = examine_config(str(tmp_path / "config.py"))
    assert [problem for section in sections for problem in section.problems] == []
    config, classes, pyramid = sections
    assert ("model", "RetinaNet") in config.rows
    assert ("neck", "FPN") in config.rows
    assert classes.rows == [
        *((split, "CocoDataset", "2 classes: x, y") for split in ("train", "val", "test")),
        ("model.bbox_head", "RetinaHead", "num_classes=2"),
    ]
    assert "240 x 320 px" not in pyramid.title and "256 x 320 px" in pyramid.title  # padded to 32
    assert pyramid.rows[3][:4] == ("P3", "8", "32", "32x40")


@pytest.mark.parametrize("scale", [[(1, 2), (3, 4)], (512,), "512", (1333, -1)], ids=str)
def test_a_test_scale_that_is_no_two_sides_is_wrong(examine, scale):
    resize = [dict(type="Resize", scale=scale)]
    sections, problems = examine(
        f"model = dict(data_preprocessor=dict(size=None))\n"
        f"test_dataloader = dict(dataset=dict(pipeline={resize}))"
    )
    assert f"Resize={scale!r}: these are not two sides" in problems
    assert "512 x 512 px" in sections[-1].title and len(sections[-1].rows) > 1


def test_the_levels_of_pyramid_backbones_and_chosen_levels(examine):
    rows = {}
    for name, text in {
        "chosen": "model = dict(neck=[dict(type='fpn_neck.FPN', in_channels=[24, 40, 112, 320], "
        "out_channels=64), dict(type='fpn_neck.SelectLevels', indices=[1])], "
        "rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(strides=[8])))",
        "whole": "model = dict(neck=None, backbone=dict(_delete_=True, "
        "type='fpn_neck.PyramidBackbone', backbone='tf_efficientnet_lite0', "
        "neck=dict(out_channels=128, num_outs=5)))",
    }.items():
        sections, problems = examine(
            text, PROJECT / "configs/detection/rpn_lite0_fpn_1xb4-250_shapes-256x320.py"
        )
        assert not problems, problems
        rows[name] = [row for row in sections[-1].rows if row[0].startswith("P")]
    assert [row[-1] for row in rows["chosen"]] == ["C3 lateral + P4"]
    assert [row[0] for row in rows["whole"]] == ["P2", "P3", "P4", "P5", "P6"]
    assert rows["whole"][-1][-1] == "max pool of P5"


def test_an_operator_that_only_the_full_mmcv_has_is_named(monkeypatch):
    """As any that is not served: here one that is, taken away."""
    pytest.importorskip("mmdet")
    from fpn_neck.cli.doctor.config import examine_config
    from fpn_neck.mm import mmcv_ops

    if not mmcv_ops.install():
        pytest.skip("mmcv has its compiled extension")
    monkeypatch.delattr(import_module("mmcv._ext"), "carafe_forward")
    sections = examine_config("mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py")
    (problem,) = (problem for section in sections for problem in section.problems)
    assert "'carafe_forward' exists only compiled" in problem.what
    assert "pip install mmcv==" in problem.remedy


STOCK = [
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",  # its constructor needs numbers
    "mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py",
]
OURS = sorted((PROJECT / "configs").glob("[sda]*/*.py"))


@pytest.mark.parametrize(
    "config",
    [
        *STOCK,
        *(pytest.param(path, marks=pytest.mark.slow, id=path.stem) for path in OURS),
    ],
)
def test_nothing_is_wrong_with_the_recipes(config):
    for package in ("mmseg", "mmdet", "timm"):
        pytest.importorskip(package)
    from fpn_neck.cli.doctor.config import examine_config

    sections = examine_config(str(config))
    assert [problem for section in sections for problem in section.problems] == []
    assert len(sections) == 3 and sections[-1].rows  # levels; C4 and C5 of the ablation are one


def test_settings_of_the_config_are_overridden(run):
    """A neck of 48 channels does not fit the head, which still takes 64."""
    for package in ("mmseg", "timm"):
        pytest.importorskip(package)
    done = run("doctor", DEMO, "--size", "64x96", "--cfg-options", "model.neck.out_channels=48")
    assert done.returncode == 1, done.stderr
    assert re.search(r"P2 +4 +48 ", done.stdout), done.stdout
    assert "what is wrong" in done.stdout and "48" in done.stdout.partition("what is wrong")[2]
    refused = run("doctor", DEMO, "--cfg-options", "neck")
    assert refused.returncode == 2 and "expected KEY=VALUE" in refused.stderr
    assert "go with a CONFIG" in run("doctor", "--cfg-options", "a=1").stderr
