"""Masks as the article's pipeline made them, to show what they did to its model.

A config names the module in ``custom_imports``; ``tools/train.py`` finds it beside itself.
"""

from __future__ import annotations

import io

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image


@TRANSFORMS.register_module()
class ArticleMasks(BaseTransform):
    """Labels through a JPEG file, resized bilinearly, and scaled to 0..1 by ``ToTensor``.

    As whole numbers, which a loss needs, nearly all of them are then 0.

    Args:
        size: height and width in px.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def transform(self, results: dict) -> dict:
        file = io.BytesIO()
        Image.fromarray(results["gt_seg_map"].astype(np.uint8)).save(file, format="JPEG")
        mask = Image.open(file).resize(self.size[::-1], Image.Resampling.BILINEAR)
        results["gt_seg_map"] = (np.asarray(mask) / 255).astype(np.int64)
        return results
