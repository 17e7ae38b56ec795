"""This package's data sets under mmdet's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset

from fpn_neck.datasets import clothing, shapes
from fpn_neck.mm.registry import DATASETS


class _BackgroundLastDataset(CocoDataset):
    """Gives the background of label maps, 255 after ``reduce_zero_label``, the last label.

    mmdet's panoptic heads need this order: things, then stuff.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        background = len(self.metainfo["classes"])
        return super().parse_data_info(raw_data_info) | {"label_map": {255: background}}


@DATASETS.register_module()
class ShapesDetectionDataset(_BackgroundLastDataset):
    """Boxes, masks and label maps of `fpn_neck.datasets.shapes`; ``split`` is 'train' or 'val'."""

    METAINFO = {"classes": shapes.CLASSES[1:], "palette": shapes.PALETTE[1:]}

    def __init__(self, split: str, **kwargs: Any) -> None:
        super().__init__(
            ann_file=f"annotations/instances_{split}.json",
            data_prefix={"img": f"{split}/images", "seg": f"{split}/labels"},
            **kwargs,
        )


@DATASETS.register_module()
class ClothingDetectionDataset(_BackgroundLastDataset):
    """Boxes, masks (from ``fpn-neck prepare_clothing``) and label maps of the clothing photos."""

    METAINFO = {"classes": clothing.CLASSES[1:], "palette": clothing.PALETTE[1:]}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(data_prefix={"img": ""}, **kwargs)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        number = Path(info["img_path"]).stem.removeprefix("img_")
        mask = Path(self.data_root) / clothing.MASKS / f"seg_{number}.png"
        return info | {"seg_map_path": str(mask)}
