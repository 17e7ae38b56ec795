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
    """Draws a sample's detections, and its truth.

    Args:
        meta: ``classes`` and ``palette`` of the data set.
        class_agnostic: call every detection 'object': the one label of an RPN has no other name.
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
        """Paint one photo.

        Args:
            photo: uint8 (H, W, 3), RGB.
            score_thr: detections with a lower score are left out.
            draw_gt: put a photo with the truth to the left.
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
        """A copy that mmdet's visualizer can draw: it fails on void pixels and without segments."""
        sample = sample.clone()
        if self.class_agnostic:
            instances = sample.pred_instances
            instances.label_names = ["object"] * len(instances)
        if "pred_panoptic_seg" in sample:
            void = len(self._visualizer.dataset_meta["classes"])  # it does not draw this number
            segments = sample.pred_panoptic_seg.sem_seg
            segments = segments.masked_fill(segments % INSTANCE_OFFSET >= void, void)
            if (segments == void).all():
                del sample.pred_panoptic_seg
            else:
                sample.pred_panoptic_seg = PixelData(sem_seg=segments)
        return sample
