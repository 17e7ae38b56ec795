"""The hooks in a real training of two steps on five small scenes."""

from pathlib import Path

import numpy as np
import pytest
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmseg", "timm", "pycocotools"):
    pytest.importorskip(_package)

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from fpn_neck.datasets.shapes.write import CLASSES, PALETTE, write_shapes  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.utils.results.pictures import overlay, paint, side_by_side  # noqa: E402

CONFIG = PROJECT / "configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
SCENES = 5  # for validation


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    root = write_shapes(folder / "shapes", train=4, val=SCENES, size=(64, 96), workers=1)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            "model.backbone.checkpoint": None,
            "model.data_preprocessor.size": (64, 96),
            "train_dataloader.batch_size": 2,
            "train_cfg": {"max_iters": 2, "val_interval": 1},
            "default_hooks.logger.interval": 1,
            "work_dir": str(folder / "work"),
            "experiment_name": "test_hooks",
            "visualizer.name": "test_hooks",  # mmengine would share one of the same name
            "randomness": {"seed": 0},
        }
    )
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
    cfg.param_scheduler = [{"type": "ConstantLR", "factor": 1.0, "by_epoch": False}]
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.fixture
def hook(runner):
    """The runner's own PicturesHook; its settings are put back."""
    (hook,) = (h for h in runner.hooks if type(h).__name__ == "PicturesHook")
    before = dict(vars(hook))
    yield hook
    vars(hook).update(before)


def folder_of(runner):
    return Path(runner.work_dir) / "pictures"


def maps_of(runner, index):
    """Photo, truth and prediction of one scene, got without the hook."""
    cv2 = pytest.importorskip("cv2")
    data = runner.val_dataloader.dataset[index]
    batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
    runner.model.eval()
    sample = runner.model.val_step(batch)[0]
    photo = cv2.imread(sample.img_path)[..., ::-1]
    truth = np.asarray(Image.open(sample.seg_map_path))
    return photo, truth, sample.pred_sem_seg.data[0].numpy()


def test_training_leaves_a_picture_of_every_scene(runner):
    """There are fewer scenes than the 12 pictures asked for."""
    names = sorted(p.name for p in folder_of(runner).iterdir())
    assert names == [f"{i:06d}.png" for i in range(1, SCENES + 1)]


@pytest.mark.parametrize("with_photo", [True, False])
def test_a_picture_shows_photo_truth_and_prediction(runner, hook, with_photo):
    hook.with_photo = with_photo
    runner.val()
    photo, truth, prediction = maps_of(runner, 2)
    pixels = np.asarray(Image.open(folder_of(runner) / "000003.png"))
    panels = [truth, prediction]
    if with_photo:
        panels = [photo, *(overlay(photo, m, PALETTE) for m in panels)]
    else:
        panels = [paint(m, PALETTE) for m in panels]
    found = []
    for panel in panels:
        h, w = panel.shape[:2]
        places = [
            (y, x)
            for y in range(pixels.shape[0] - h + 1)
            for x in range(pixels.shape[1] - w + 1)
            if (pixels[y, x : x + w] == panel[0]).all()
            and (pixels[y : y + h, x : x + w] == panel).all()
        ]
        assert places
        found.append(places[0])
    assert [x for _, x in found] == sorted(x for _, x in found)
    given = photo if with_photo else None
    maps = {"truth": truth, "prediction": prediction}
    assert (pixels == np.asarray(side_by_side(given, maps, CLASSES, PALETTE))).all()


@pytest.mark.parametrize(
    ("count", "scenes"), [(0, []), (1, [1]), (2, [1, 5]), (3, [1, 3, 5]), (99, [1, 2, 3, 4, 5])]
)
def test_the_scenes_are_spread_evenly_and_pictures_replaced(runner, hook, count, scenes):
    hook.count = count
    for picture in folder_of(runner).iterdir():
        picture.write_bytes(b"old")
    runner.val()
    new = [p.name for p in sorted(folder_of(runner).iterdir()) if p.read_bytes() != b"old"]
    assert new == [f"{i:06d}.png" for i in scenes]
    hook.count = 99
    runner.val()  # all whole again


def test_testing_draws_as_well(runner):
    for picture in folder_of(runner).iterdir():
        picture.unlink()
    runner.test()
    assert len(list(folder_of(runner).iterdir())) == SCENES


def test_the_summary_says_where_everything_is(runner):
    work_dir = Path(runner.work_dir)
    log = (Path(runner.log_dir) / f"{runner.timestamp}.log").read_text()
    said = {
        key: log.split(f" {key}: ")[1].splitlines()[0]
        for key in ("checkpoint", "last validation", "curves", "pictures")
    }
    assert said["curves"] == str(work_dir / "curves.png")
    assert said["pictures"] == str(work_dir / "pictures")
    assert Path(said["checkpoint"]).is_file()
    assert Path(said["checkpoint"]).name.startswith("best_mIoU_occurring_iter_")
    series = read_scalars(work_dir)
    assert [step for step, _ in series["mIoU_occurring"]] == [1, 2]
    assert f"mIoU_occurring {series['mIoU_occurring'][-1][1]:g}" in said["last validation"]


def test_the_curves_are_a_picture(runner):
    curves = Image.open(Path(runner.work_dir) / "curves.png")
    assert curves.format == "PNG" and min(curves.size) > 300


def test_nothing_half_written_is_left(runner):
    assert not [p for p in Path(runner.work_dir).rglob(".*")]
