"""What segmenters and detectors of OpenMMLab have in common when they are exported."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from fpn_neck.export.graphs import Exportable
from fpn_neck.export.metadata import Metadata
from fpn_neck.mm.predictor import load_model, photo_pipeline
from fpn_neck.utils.sizes import ceil_div
from fpn_neck.utils.walk import type_name
from fpn_neck.weights.checkpoints import Checkpoint

_NOT_KEPT = "can't be exported or converted"
_LOADING = {"color_type": "color", "to_float32": False}


def image_metadata(model: BaseModel, cfg: Config, kind: str) -> Metadata:
    """How photos become the images of a model: by its data preprocessor and the test pipeline.

    Raises:
        ValueError: a step that neither an exported file nor a segmenter's folder holds; names it.
    """
    preprocessor = model.data_preprocessor
    if not getattr(preprocessor, "_enable_normalize", False):
        raise ValueError("model.data_preprocessor has no mean and std: set both")
    mean, std = (getattr(preprocessor, name).flatten().tolist() for name in ("mean", "std"))
    if len(mean) != 3:
        raise ValueError(f"images of {len(mean)} channels: expected photos of three")
    # mmcv's loader gives BGR. The names are mmseg's and mmengine's.
    names = ("channel_conversion", "_channel_conversion")
    swapped = any(getattr(preprocessor, name, False) for name in names)
    channels = "RGB" if swapped else "BGR"
    return Metadata(kind, tuple(mean), tuple(std), channels, **_resizing(cfg))


def _resizing(cfg: Config) -> dict[str, Any]:
    """``fit`` or ``exact`` of `Metadata`."""
    rule: dict[str, Any] = {}
    for transform in photo_pipeline(cfg):
        name = type_name(transform)
        options = {k: v for k, v in transform.items() if k != "type"}
        if name == "LoadImageFromFile":
            changed = {k: options.get(k, v) for k, v in _LOADING.items()}
            if changed != _LOADING:
                raise ValueError(f"the test pipeline's {name} with {changed} {_NOT_KEPT}")
        elif name == "Resize" and not rule and isinstance(options.get("scale"), (list, tuple)):
            pair = tuple(options["scale"])
            keep = options.get("keep_ratio", False)
            rule = {"fit": (max(pair), min(pair))} if keep else {"exact": pair}
        elif not name.startswith(("Load", "Pack")):
            raise ValueError(
                f"the test pipeline's {name}({options}) {_NOT_KEPT}: only one Resize with a scale "
                "can"
            )
    return rule


def features(cfg: Config, checkpoint: str | Checkpoint, scope: str) -> Exportable:
    """Backbone and neck of a trained model of any kind: maps "p2", "p3", ..., finest first.

    Args:
        cfg, checkpoint, scope: see `fpn_neck.mm.predictor.load_model`.
    """
    model = load_model(cfg, checkpoint, "cpu", scope=scope)
    graph = _Features(model, getattr(model.data_preprocessor, "pad_size_divisor", 1)).eval()
    with torch.inference_mode():
        count = len(graph(torch.zeros(1, 3, 128, 128)))
    names = tuple(f"p{i}" for i in range(2, 2 + count))
    return Exportable(graph, graph, names, image_metadata(model, cfg, "features"))


class _Features(nn.Module):
    """Backbone and neck of a model: images (N, 3, H, W) -> maps, finest first."""

    def __init__(self, model: Any, divisor: int = 1) -> None:
        super().__init__()
        self.model, self.divisor = model, divisor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.extract_feat(padded(images, self.divisor)))


def padded(images: Tensor, divisor: int) -> Tensor:
    """Zeros below and on the right, to whole multiples of the divisor, as data preprocessors do."""
    if divisor <= 1:
        return images
    height, width = images.shape[-2:]
    right, below = (ceil_div(n, divisor) * divisor - n for n in (width, height))
    return F.pad(images, (0, right, 0, below))
