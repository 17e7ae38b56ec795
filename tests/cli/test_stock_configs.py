"""A stock mmdet config is trained and tested with our neck by options of the command line alone."""

import json
import math

import pytest

for _package in ("mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)

import fpn_neck.mm.registry  # noqa: E402, F401 (lets torch read mmengine's checkpoints)

pytest.importorskip("mmdet.models")  # importable through fpn_neck

from fpn_neck.datasets.shapes.write import CLASSES  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

STOCK = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SWAP = "model.neck.type=fpn_neck.FPN"


def options(root):
    """What a user would give: the neck, the data and their classes, a small and short training."""
    found = [SWAP, "model.backbone.init_cfg=None", "model.roi_head.bbox_head.num_classes=6"]
    found += ["model.backbone.depth=18", "model.neck.in_channels=[64,128,256,512]"]
    found += ["train_cfg.max_epochs=1", "train_dataloader.batch_size=2"]
    found += ["default_hooks.logger.interval=1"]
    for part, split, resize in (("train", "train", 2), ("val", "val", 1), ("test", "val", 1)):
        loader = f"{part}_dataloader"
        found += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        found += [
            f"{loader}.dataset.{name}"
            for name in (
                f"data_root={root}",
                f"ann_file=annotations/instances_{split}.json",
                f"data_prefix.img={split}/images",
                f"metainfo.classes={list(CLASSES[1:])}".replace(" ", ""),
                f"pipeline.{resize}.scale=(96,64)",
            )
        ]
    truth = f"{root}/annotations/instances_val.json"
    return [*found, f"val_evaluator.ann_file={truth}", f"test_evaluator.ann_file={truth}"]


@pytest.mark.slow
def test_it_trains_and_is_tested(run_tool, shapes_root, tmp_path):
    arguments = ["--cfg-options", *options(shapes_root)]
    work_dir = tmp_path / "train"
    done = run_tool("train", STOCK, "--work-dir", work_dir, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    series = read_scalars(work_dir)
    assert [step for step, _ in series["loss"]] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(v) for _, v in series["loss"])
    checkpoint = work_dir / "epoch_1.pth"
    names = load_checkpoint(checkpoint)["state_dict"]
    assert "neck.lateral_convs.0.conv.weight" in names

    test_dir = tmp_path / "test"
    done = run_tool("test", STOCK, checkpoint, "--work-dir", test_dir, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = test_dir.glob("*/*.json")
    assert -1 <= json.loads(file.read_text())["coco/bbox_mAP"] <= 1
    assert f"type='{SWAP.split('=')[1]}'" in (test_dir / f"{STOCK.split('/')[-1]}").read_text()
