"""The text of a config for a user's own photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_BATCH = 4  # of own_segmentation.py and own_detection.py
_MOST_PIXELS = 512  # of the shorter side in training
_ALIGNMENT = 32  # px, the coarsest stride
_EPOCHS = 40
_ITERATIONS = 300, 20_000  # least, most


class Sizes(NamedTuple):
    """Both in px: a training crop (height, width), and the (width, height) that photos fit into."""

    crop: tuple[int, int]
    scale: tuple[int, int]


def sizes_for(width: float, height: float) -> Sizes:
    """Sizes for photos of this typical size: as large as they are, within the limit."""
    factor = min(1.0, _MOST_PIXELS / min(width, height))
    crop = [max(64, round(n * factor / _ALIGNMENT) * _ALIGNMENT) for n in (height, width)]
    crop = [min(n, 2 * min(crop)) for n in crop]
    return Sizes((crop[0], crop[1]), (round(width * factor), round(height * factor)))


def iterations_for(photos: int) -> int:
    """Forty times through the photos, within 300 and 20,000, a multiple of 100."""
    least, most = _ITERATIONS
    return min(max(least, round(_EPOCHS * photos / _BATCH / 100) * 100), most)


class Backbone(NamedTuple):
    """A timm model in place of EfficientNet-lite0.

    Attributes:
        checkpoint: file of its weights; None starts from random ones.
        channels: of its maps.
        mean, std: of its images, 0..255.
    """

    model_name: str
    checkpoint: str | None
    channels: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


def _model(backbone: Backbone | None, num_classes: int) -> str:
    """The line of the model."""
    preprocessor, parts = "size=crop", ""
    if backbone:
        preprocessor += f", mean={list(backbone.mean)}, std={list(backbone.std)}"
        frozen = int(bool(backbone.checkpoint))  # random weights must learn
        parts = (
            f", neck=dict(in_channels={list(backbone.channels)}), backbone=dict(_delete_=True, "
            f"type='fpn_neck.TimmBackbone', model_name={backbone.model_name!r}, "
            f"checkpoint={backbone.checkpoint!r}, frozen_levels={frozen})"
        )
    head = f"decode_head=dict(num_classes={num_classes})"
    return f"model = dict(data_preprocessor=dict({preprocessor}), {head}{parts})\n"


def segmentation_config(
    images: Path,
    masks: Path,
    classes: Sequence[str],
    sizes: Sizes,
    iterations: int,
    backbone: Backbone | None = None,
) -> str:
    """A config that trains a segmenter on folders of photos and masks of labels."""
    return f"""\
# Every setting of mmseg can stand here; _base_.NAME is in the file below. Train: fpn-neck train FILE
_base_ = 'fpn_neck::_base_/own_segmentation.py'
classes = {tuple(classes)!r}
crop, scale = {sizes.crop}, {sizes.scale}  # px: (height, width) of a crop; photos fit into (width, height)
data = dict(images={str(images)!r}, masks={str(masks)!r}, metainfo=dict(classes=classes))
{_model(backbone, len(classes))}\
resize = dict(type='Resize', scale=scale, keep_ratio=True)
augment = [dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
           dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.9), dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')]
train_pipeline, test_pipeline = [_base_.load, _base_.labels, *augment, _base_.pack], [_base_.load, resize, _base_.labels, _base_.pack]
tta_pipeline = [_base_.load, dict(type='TestTimeAug', transforms=[[resize], *_base_.mirrored])]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **data))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **data))
{_schedule(iterations)}"""


def detection_config(
    photos: Path,
    annotations: Mapping[str, Path],
    classes: Sequence[str],
    model: str,
    sizes: Sizes,
    iterations: int,
) -> str:
    """A config that trains a detector on COCO files.

    Args:
        annotations: file of the splits 'train' and 'val'.
        model: one of `MODELS`.
    """
    k, (settings, metric) = len(classes), MODELS[model]
    files = {split: str(path) for split, path in annotations.items()}
    load = dict(with_bbox=True) | (dict(with_mask=True) if model in _WITH_OUTLINES else {})
    wanted = ", ".join(f"{k}={v}" for k, v in load.items())
    labels = f"dict(type='fpn_neck.LabelsFromOutlines', num_classes={k}), "
    labels = labels if model == "panoptic-fpn" else ""
    packed = "('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')"
    return f"""\
# Every setting of mmdet can stand here; _base_.NAME is in the files below. Train: fpn-neck train FILE
_base_ = ['fpn_neck::_base_/detectors/{model}_lite0.py', 'fpn_neck::_base_/own_detection.py', 'fpn_neck::_base_/runtime_detection.py']
classes = {tuple(classes)!r}
scale = {sizes.scale}  # px: photos fit into (width, height)
data = dict(data_prefix=dict(img={str(photos)!r}), metainfo=dict(classes=classes))
model = {settings.format(k=k)}
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=scale, keep_ratio=True), dict(type='LoadAnnotations', {wanted})]
train_pipeline = [load[0], load[2], load[1], {labels}dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [*load, dict(type='PackDetInputs', meta_keys={packed})]
train_dataloader = dict(dataset=dict(ann_file={files["train"]!r}, pipeline=train_pipeline, **data))
val_dataloader = test_dataloader = dict(dataset=dict(ann_file={files["val"]!r}, pipeline=test_pipeline, **data))
val_evaluator = test_evaluator = dict({metric}, ann_file={files["val"]!r})
{_schedule(iterations)}{_SAVE_BEST.get(model, "")}"""


# model -> its number of classes in mmdet's config, metrics
_ROI = "roi_head=dict(bbox_head=dict(num_classes={k})"
_MASKS = _ROI + ", mask_head=dict(num_classes={k}))"
_THINGS = "semantic_head=dict(num_things_classes={k})"
_FUSION = "panoptic_fusion_head=dict(num_things_classes={k})"
MODELS: dict[str, tuple[str, str]] = {
    "faster-rcnn": (f"dict({_ROI}))", "metric=['bbox']"),
    "mask-rcnn": (f"dict({_MASKS})", "metric=['bbox', 'segm']"),
    "panoptic-fpn": (
        f"dict({_MASKS}, {_THINGS}, {_FUSION})",
        "_delete_=True, type='fpn_neck.PanopticQualityMetric'",
    ),
    "retinanet": ("dict(bbox_head=dict(num_classes={k}))", "metric=['bbox']"),
    "rpn": ("dict()", "metric=['proposal']"),
}
_WITH_OUTLINES = ("mask-rcnn", "panoptic-fpn")
_SAVE_BEST = {
    "panoptic-fpn": "default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ', rule='greater'))\n",
    "rpn": "default_hooks = dict(checkpoint=dict(save_best='coco/AR@1000'))\n",
}


def _schedule(iterations: int) -> str:
    warm_up = min(100, iterations // 5)
    return f"""\
train_cfg = dict(max_iters={iterations}, val_interval={max(1, iterations // 4)})
param_scheduler = [dict(_base_.warmup, end={warm_up}), dict(_base_.cosine, begin={warm_up}, end={iterations})]
"""
