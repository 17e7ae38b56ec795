"""mmseg's segmenters for `fpn_neck.export.write.export`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from mmengine.config import Config
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from fpn_neck.export.graphs import Exportable, FullSize, Labels, Outputs
from fpn_neck.mm.export import image_metadata
from fpn_neck.mm.predictor import complete_names, load_model
from fpn_neck.mm.seg.predictor import reduces_zero_label
from fpn_neck.weights.checkpoints import Checkpoint


class _Logits(nn.Module):
    """Images (N, 3, H, W) -> the decode head's logits (N, K, h, w)."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.decode_head(self.model.extract_feat(images))


def exportable(cfg: Config, checkpoint: str | Checkpoint, *, labels: bool) -> Exportable:
    """A trained segmenter whole: logits or labels at the images' size.

    Args:
        cfg, checkpoint: see `fpn_neck.mm.predictor.load_model`.
        labels: give labels (N, H, W) instead of logits (N, K, H, W).

    Raises:
        FileNotFoundError, ValueError: see `load_model` and `image_metadata`; the model predicts in
            another way than by one run of its decode head.
    """
    model = load_model(cfg, checkpoint, "cpu", scope="mmseg")
    complete_names(model, cfg, checkpoint, "classes", "palette", scope="mmseg")
    refuse_slides(model)
    head, meta = model.decode_head, model.dataset_meta
    threshold = head.threshold if model.out_channels == 1 else 0.5
    metadata = replace(
        image_metadata(model, cfg, "segmentation"),
        classes=tuple(meta["classes"]),
        palette=tuple(tuple(map(int, colour)) for colour in meta["palette"]),
        labels=labels,
        threshold=threshold,
        align_corners=model.align_corners,
        ignore_index=head.ignore_index,
        first_value=int(reduces_zero_label(cfg, meta)),
    )
    logits = FullSize(_Logits(model), model.align_corners)
    graph = Labels(logits, threshold) if labels else logits
    reference = _reference(model, labels, threshold)
    return Exportable(graph.eval(), reference, ("labels" if labels else "logits",), metadata)


def refuse_slides(model: nn.Module) -> None:
    """Refuse a model that does not predict a photo by one run on it, without padding.

    Raises:
        ValueError: names the setting.
    """
    mode = model.test_cfg.get("mode", "whole") if isinstance(model, EncoderDecoder) else None
    if mode != "whole":
        raise ValueError(
            f"model {type(model).__name__} with test_cfg.mode={mode!r} can't be exported or "
            "converted whole: only EncoderDecoder with mode='whole' can; export --features exports "
            "backbone and neck"
        )
    if getattr(model.data_preprocessor, "test_cfg", None):
        raise ValueError(
            "model.data_preprocessor.test_cfg pads photos in testing, which exported and converted "
            "models do not: leave it out, or export --features"
        )


def _reference(
    model: EncoderDecoder, labels: bool, threshold: float
) -> Callable[[Tensor], Outputs]:
    """mmseg's own way: `encode_decode`, then a sigmoid or argmax."""

    def run(images: Tensor) -> Outputs:
        size = tuple(images.shape[-2:])
        metas = [{"img_shape": size, "ori_shape": size, "pad_shape": size}] * len(images)
        logits = model.encode_decode(images, metas)
        if not labels:
            return [logits]
        if logits.shape[1] > 1:
            return [logits.argmax(1)]
        return [(logits.sigmoid() > threshold)[:, 0].to(torch.int64)]

    return run
