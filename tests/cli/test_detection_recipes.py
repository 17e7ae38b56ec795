"""Every detection recipe of the generated scenes: trained for two steps, validated, painted."""

import pytest
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmdet", "timm", "pycocotools", "torchmetrics"):
    pytest.importorskip(_package)

from fpn_neck.mm.curves import read_scalars  # noqa: E402

RECIPES = PROJECT / "configs/detection"
METRICS = {
    "panoptic-fpn_lite0_fpn_1xb4-600_shapes-256x320": "coco_panoptic/PQ",
    "faster-rcnn_lite0_fpn_demo_shapes-256x320": "coco/bbox_mAP",
    "mask-rcnn_lite0_fpn_1xb4-600_shapes-256x320": "coco/segm_mAP",
    "retinanet_lite0_fpn_1xb4-600_shapes-256x320": "coco/bbox_mAP",
}
slow = pytest.mark.slow
TINY = """
_base_ = '{configs}/detection/NAME.py'
model = dict(backbone=dict(checkpoint=None))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1))
"""


def test_all_recipes_of_the_scenes_are_here():
    found = {p.stem for p in RECIPES.glob("*_shapes-*.py")}
    two_step = {name for name in found if name.startswith(("rpn", "fast-rcnn"))}
    assert len(two_step) == 2  # test_make_proposals trains these
    assert found - two_step == set(METRICS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[slow] if n.startswith(("mask", "retina")) else []) for n in METRICS],
)
def test_recipe_trains_validates_and_paints(run_tool, write_config, tmp_path, name):
    config = write_config("tiny", TINY.replace("NAME", name))
    done = run_tool("train", config, "--work-dir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    series = read_scalars(tmp_path / "work")
    assert [step for step, _ in series["loss"]] == [1, 2]
    ((step, value),) = series[METRICS[name]]
    assert step == 2 and -1 <= value <= 100
    assert (tmp_path / "work/iter_2.pth").is_file()
    pictures = sorted((tmp_path / "work/pictures").glob("*.png"))
    assert len(pictures) == 4  # all scenes for validation
    assert Image.open(pictures[0]).size == (2 * 96, 64)


@slow
def test_a_detector_trains_in_bfloat16(run_tool, write_config, tmp_path):
    (name,) = (n for n in METRICS if n.startswith("faster"))
    config, work = write_config("tiny", TINY.replace("NAME", name)), tmp_path / "work"
    options = ["--amp", "bfloat16", "--work-dir", work]
    done = run_tool("train", config, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [value for _, value in read_scalars(work)["loss"]]
    assert len(losses) == 2 and all(0 < value < 100 for value in losses)
