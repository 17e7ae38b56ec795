"""Pictures of truth and detections, drawn in validation and testing."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.models import RPN
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from PIL import Image

from fpn_neck.mm.det.drawer import Drawer
from fpn_neck.mm.photos import picture_in
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.report_hooks import PicturesHook


@HOOKS.register_module()
class DetectionPicturesHook(PicturesHook):
    """Truth and detections side by side, see `PicturesHook`.

    Args:
        score_thr: detections with a lower score are not drawn.
    """

    def __init__(self, count: int = 12, with_photo: bool = True, score_thr: float = 0.3) -> None:
        super().__init__(count, with_photo)
        self.score_thr = score_thr
        self._class_agnostic = False

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._class_agnostic = isinstance(model, RPN)

    def _picture(self, dataset: Any, sample: Any) -> Image.Image:
        if self.with_photo:
            photo = picture_in(dataset, sample.img_path)
        else:
            photo = np.full((*sample.ori_shape[:2], 3), 255, np.uint8)
        drawer = Drawer(dataset.metainfo, self._class_agnostic)
        return drawer(photo, sample, self.score_thr, draw_gt=True)
