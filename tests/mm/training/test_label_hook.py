"""A label map that slips through every check, and a head that doesn't look."""

import numpy as np
import pytest
from helpers.project import PROJECT
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from fpn_neck.datasets.shapes.write import write_shapes  # noqa: E402
from fpn_neck.mm.training.install_hooks import install_hooks  # noqa: E402

CONFIG = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"


def config(root, work_dir):
    """mmseg's own head, one batch of all four scenes."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            "model.backbone.checkpoint": None,
            "model.data_preprocessor.size": (64, 96),
            "model.decode_head.type": "mmseg.FPNHead",
            "train_dataloader.batch_size": 4,
            "train_dataloader.num_workers": 0,
            "train_dataloader.persistent_workers": False,
            "train_dataloader.dataset.data_root": str(root),
            "train_cfg": {"max_iters": 1, "val_interval": 10},
            "work_dir": str(work_dir),
            "experiment_name": work_dir.name,
        }
    )
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.param_scheduler = None
    cfg.custom_hooks = []
    install_hooks(cfg)
    return cfg


def test_a_wrong_label_stops_before_the_loss_and_names_its_file(tmp_path):
    root = write_shapes(tmp_path / "shapes", train=4, val=1, size=(64, 96), workers=1)
    Runner.from_cfg(config(root, tmp_path / "good")).train()
    path = sorted((root / "train").rglob("*.png"))[2]
    mask = np.array(Image.open(path))
    mask[10:50, 20:60] = 77
    Image.fromarray(mask).save(path)
    with pytest.raises(ValueError, match=rf"{path.name}: .* label 77"):
        Runner.from_cfg(config(root, tmp_path / "bad")).train()
