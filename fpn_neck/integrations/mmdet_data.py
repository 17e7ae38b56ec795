"""The data sets of this package under mmdet's interfaces, and pictures of what detectors find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.models import RPN
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from PIL import Image

from fpn_neck.datasets import clothing, shapes
from fpn_neck.integrations.hooks import PicturesHook
from fpn_neck.integrations.mmdet_pictures import Drawer
from fpn_neck.registry import DATASETS, HOOKS


class _StuffLast(CocoDataset):
    """Label maps whose background, 255 after ``reduce_zero_label``, becomes the last label.

    That is mmdet's order for panoptic heads: things, then stuff.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        background = len(self.metainfo["classes"])
        return super().parse_data_info(raw_data_info) | {"label_map": {255: background}}


@DATASETS.register_module()
class ShapesDetectionDataset(_StuffLast):
    """Boxes, masks and label maps of `fpn_neck.datasets.shapes`; ``split`` is 'train' or 'val'."""

    METAINFO = {"classes": shapes.CLASSES[1:], "palette": shapes.PALETTE[1:]}

    def __init__(self, split: str, **kwargs: Any) -> None:
        super().__init__(
            ann_file=f"annotations/instances_{split}.json",
            data_prefix={"img": f"{split}/images", "seg": f"{split}/labels"},
            **kwargs,
        )


@DATASETS.register_module()
class ClothingDetectionDataset(_StuffLast):
    """Boxes, masks (from ``tools/prepare_clothing.py``) and label maps of the clothing photos."""

    METAINFO = {"classes": clothing.CLASSES[1:], "palette": clothing.PALETTE[1:]}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(data_prefix={"img": ""}, **kwargs)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        number = Path(info["img_path"]).stem.removeprefix("img_")
        mask = Path(self.data_root) / clothing.MASKS / f"seg_{number}.png"
        return info | {"seg_map_path": str(mask)}


@HOOKS.register_module()
class DetectionPicturesHook(PicturesHook):
    """Truth and detections side by side, see `PicturesHook`.

    Args:
        score_thr: detections below it are not drawn.
    """

    def __init__(self, count: int = 12, with_photo: bool = True, score_thr: float = 0.3) -> None:
        super().__init__(count, with_photo)
        self.score_thr = score_thr
        self._class_agnostic = False

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._class_agnostic = isinstance(model, RPN)

    def _picture(self, meta: dict, sample: Any) -> Image.Image:
        photo = mmcv.imread(sample.img_path, channel_order="rgb")
        if not self.with_photo:
            photo = np.full_like(photo, 255)
        return Drawer(meta, self._class_agnostic)(photo, sample, self.score_thr, draw_gt=True)
