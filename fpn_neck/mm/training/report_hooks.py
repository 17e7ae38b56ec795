"""Runner hooks: pictures at every validation, curves and a summary at the end of training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from fpn_neck.mm.curves import PLOTTED_METRICS, Series, draw_curves, read_scalars
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.photos import picture_in
from fpn_neck.mm.registry import HOOKS
from fpn_neck.utils.files import write_whole
from fpn_neck.utils.photo_files import output_names
from fpn_neck.utils.results.pictures import side_by_side
from fpn_neck.utils.values import check_flag, check_whole


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draws photo, truth and prediction side by side, for samples spread evenly over the data set.

    The pictures are in ``<work_dir>/pictures`` under the names of the photos, made unique with the
    name of the folder; every validation or test replaces them.

    Args:
        count: number of pictures.
        with_photo: False draws only the label maps, for photos that must not be shown.
    """

    def __init__(self, count: int = 12, with_photo: bool = True) -> None:
        self.count = check_whole("count", count, 1)
        self.with_photo = check_flag("with_photo", with_photo)
        self._drawn: list[Path] = []  # photos of this validation or test

    def before_val_epoch(self, runner: Runner) -> None:
        self._drawn = []

    def before_test_epoch(self, runner: Runner) -> None:
        self._drawn = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._draw(runner, runner.val_loop, batch_idx, outputs)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._draw(runner, runner.test_loop, batch_idx, outputs)

    @master_only
    def _draw(self, runner: Runner, loop: Any, batch_idx: int, outputs: Sequence[Any]) -> None:
        batches = len(loop.dataloader)
        if batch_idx not in np.linspace(0, batches - 1, min(self.count, batches)).astype(int):
            return
        self._drawn.append(Path(outputs[0].img_path))
        path = Path(runner.work_dir) / "pictures" / f"{output_names(self._drawn)[-1]}.png"
        picture = self._picture(loop.dataloader.dataset, outputs[0])
        write_whole(path, partial(picture.save, format="PNG"))

    def _picture(self, dataset: Any, sample: Any) -> Image.Image:
        meta = dataset.metainfo
        photo = picture_in(dataset, sample.img_path) if self.with_photo else None
        maps = {
            "truth": _labels(sample.gt_sem_seg),
            "prediction": _labels(sample.pred_sem_seg),
        }
        return side_by_side(photo, maps, meta["classes"], meta["palette"])


def _labels(segments: Any) -> np.ndarray:
    """Whole numbers (H, W); mmseg gives floats for one logit."""
    return segments.data[0].cpu().numpy().astype(np.int64)


@HOOKS.register_module()
class SummaryHook(Hook):
    """Draws ``<work_dir>/curves.png`` after every validation; after training, logs all paths."""

    priority = "LOWEST"  # after the scalars and the last checkpoint are written

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._draw(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        work_dir, series = Path(runner.work_dir), self._draw(runner)
        best = runner.message_hub.get_info("best_ckpt")
        metrics = [f"{name} {series[name][-1][1]:g}" for name in PLOTTED_METRICS if name in series]
        runner.logger.info(f"checkpoint: {best or last_checkpoint(work_dir) or 'none'}")
        runner.logger.info(f"last validation: {', '.join(metrics) or 'none'}")
        runner.logger.info(f"curves: {work_dir / 'curves.png'}")
        if (work_dir / "pictures").is_dir():
            runner.logger.info(f"pictures: {work_dir / 'pictures'}")

    def _draw(self, runner: Runner) -> Series:
        work_dir = Path(runner.work_dir)
        series = read_scalars(work_dir)
        write_whole(work_dir / "curves.png", lambda path: draw_curves(series, path))
        return series
