"""Photos with boxes, masks and segments on them, drawn by mmdet's visualizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import PixelData
from PIL import Image


class Drawer:
    """Draws what is in a sample.

    Args:
        meta: ``classes`` and ``palette`` of the data set.
        class_agnostic: call every find 'object', as for an RPN, whose one label says no more.
    """

    def __init__(self, meta: Mapping[str, Any], class_agnostic: bool = False) -> None:
        palette = meta.get("palette", "random")
        if not isinstance(palette, str):  # mmdet draws with tuples only
            palette = [tuple(colour) for colour in palette]
        self._visualizer = DetLocalVisualizer()
        self._visualizer.dataset_meta = {**meta, "palette": palette}
        self.class_agnostic = class_agnostic

    def __call__(
        self, photo: np.ndarray, sample: DetDataSample, score_thr: float, draw_gt: bool
    ) -> Image.Image:
        """The photo with the finds above a score, right of one with the truth if that is asked.

        Args:
            photo: uint8 (H, W, 3), RGB.
        """
        sample = self._drawable(sample.cpu())
        with warnings.catch_warnings():  # a box that ends at the border is "out of bounds"
            warnings.filterwarnings("ignore", ".*out of bounds", UserWarning)
            self._visualizer.add_datasample(
                "photo",
                np.ascontiguousarray(photo),
                data_sample=sample,
                draw_gt=draw_gt,
                pred_score_thr=score_thr,
            )
        return Image.fromarray(self._visualizer.get_image())

    def _drawable(self, sample: DetDataSample) -> DetDataSample:
        """Without what mmdet's visualizer stumbles over: void segments, and no segment at all."""
        sample = sample.clone()
        if self.class_agnostic:
            found = sample.pred_instances
            found.label_names = ["object"] * len(found)
        if "pred_panoptic_seg" in sample:
            void = len(self._visualizer.dataset_meta["classes"])  # the number it leaves undrawn
            segments = sample.pred_panoptic_seg.sem_seg
            segments = segments.masked_fill(segments % INSTANCE_OFFSET >= void, void)
            if (segments == void).all():
                del sample.pred_panoptic_seg
            else:
                sample.pred_panoptic_seg = PixelData(sem_seg=segments)
        return sample
