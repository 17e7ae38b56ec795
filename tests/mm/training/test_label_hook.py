"""A label map that slips through every check, and a head that doesn't look."""

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

pytest.importorskip("mmseg")

from helpers.waits import Waits  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from fpn_neck.datasets.shapes.write import write_shapes  # noqa: E402
from fpn_neck.mm.sample_labels import check_sample  # noqa: E402
from fpn_neck.mm.training.install_hooks import install_hooks  # noqa: E402
from fpn_neck.mm.training.label_hook import CheckedCollate  # noqa: E402

CONFIG = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"


def config(root, work_dir, **changes):
    """mmseg's own head, one batch of all four scenes."""
    cfg = Config.fromfile(CONFIG)
    del cfg.model.decode_head.loss_stride  # mmseg's has none
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
        | changes
    )
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.param_scheduler = None
    cfg.custom_hooks = []
    install_hooks(cfg)
    return cfg


def scenes(folder):
    return write_shapes(folder, train=4, val=1, size=(64, 96), workers=1)


def test_a_wrong_label_stops_before_the_loss_and_names_its_file(tmp_path):
    root = scenes(tmp_path / "shapes")
    Runner.from_cfg(config(root, tmp_path / "good")).train()
    path = sorted((root / "train").rglob("*.png"))[2]
    mask = np.array(Image.open(path))
    mask[10:50, 20:60] = 77
    Image.fromarray(mask).save(path)
    with pytest.raises(ValueError, match=rf"{path.name}: .* label 77"):
        Runner.from_cfg(config(root, tmp_path / "bad")).train()
    loading = {"train_dataloader.num_workers": 1, "model.decode_head.type": "fpn_neck.FPNHead"}
    with pytest.raises(ValueError, match=rf"{path.name}: .* label 77"):
        Runner.from_cfg(config(root, tmp_path / "process", **loading)).train()


def test_a_wrong_label_of_the_padding_is_found_by_our_head(tmp_path):
    """The loading process does not see it."""
    root = scenes(tmp_path / "shapes")
    padded = {
        "model.data_preprocessor.size": (96, 128),
        "model.decode_head.type": "fpn_neck.FPNHead",
    }
    Runner.from_cfg(config(root, tmp_path / "good", **padded)).train()
    padded["model.data_preprocessor.seg_pad_val"] = 77
    with pytest.raises(ValueError, match="label 77"):
        Runner.from_cfg(config(root, tmp_path / "bad", **padded)).train()


# --------------------------------------------------------------------------------- without a runner

RULE = 5, 255  # classes, label to ignore


def batch(label=4):
    """Two samples, the second with such a label."""
    items = []
    for i, value in enumerate((255, label)):
        labels = torch.full((1, 6, 7), value)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo({"seg_map_path": f"masks/{i}.png"})
        items.append({"inputs": torch.ones(3, 6, 7), "data_samples": sample})
    return items


def check(items, rule=RULE):
    for item in items:
        check_sample(item["data_samples"], item["data_samples"].gt_sem_seg.data, *rule)


@pytest.mark.parametrize("label", [5, -1, 254])
def test_loading_names_the_file(label):
    collate = CheckedCollate(pseudo_collate, [RULE], [RULE])
    with pytest.raises(ValueError, match=rf"masks/1.png: .* label {label}; .* 0..4 "):
        collate(batch(label))


def test_labels_that_loading_has_checked_are_not_read_again():
    marked, unmarked = batch(), batch()
    CheckedCollate(pseudo_collate, [RULE], [RULE])(marked)
    CheckedCollate(pseudo_collate, [RULE], [])(unmarked)
    for items, rule, is_read in (
        (marked, RULE, False),
        (unmarked, RULE, True),
        (marked, (9, 255), True),
    ):
        with Waits() as waits:
            check(items, rule)
        assert (waits.count > 0) is is_read


def test_a_batch_that_was_not_checked_names_the_file():
    items = batch(5)
    with pytest.raises(ValueError, match=r"masks/1.png: .* label 5; .* 0..4 "):
        check(items)


def test_a_data_set_without_label_maps_is_collated():
    items = [{"inputs": torch.ones(3), "data_samples": SegDataSample()}, {"inputs": torch.ones(3)}]
    for item in items:
        found = CheckedCollate(pseudo_collate, [RULE], [RULE])([item])
        assert len(found["inputs"]) == 1
    assert len(CheckedCollate(pseudo_collate, [RULE], [RULE])([torch.ones(2), torch.ones(2)])) == 2
