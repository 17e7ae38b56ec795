"""Checkpoints of mmseg <-> folders of `fpn_neck.Segmenter.save_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from fpn_neck.export.metadata import Metadata
from fpn_neck.mm.config.in_checkpoint import read_trained
from fpn_neck.mm.export import image_metadata
from fpn_neck.mm.predictor import complete_names, load_model
from fpn_neck.mm.seg.export import refuse_slides
from fpn_neck.mm.seg.head import FPNHead
from fpn_neck.mm.seg.predictor import reduces_zero_label
from fpn_neck.models.fpn import FPN
from fpn_neck.models.pretrained import Facts, read_config
from fpn_neck.models.seg_head import SegHead
from fpn_neck.models.segmenter import Segmenter
from fpn_neck.utils.files import write_whole
from fpn_neck.utils.results.pictures import default_palette
from fpn_neck.utils.walk import dicts
from fpn_neck.weights.conversion import Conversion

_NOT_OPTIONS = {"type", "model_name", "checkpoint", "pretrained", "init_cfg", "in_channels"}
_TRAINING_ONLY = "auxiliary_head."
_HEADS = "decode_head.", "head."  # mmseg's name, the Segmenter's
_LAYERS = "channels", "merge", "conv_cfg", "norm_cfg", "act_cfg", "align_corners"
_THRESHOLD = 0.5  # of a Segmenter, for one logit


def to_segmenter(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    config: str | Path | Config | None = None,
    float16: bool = False,
) -> Conversion:
    """Write the segmenter of a checkpoint of training as `Segmenter.save_pretrained` does.

    The model is `fpn_neck.FPN` and `fpn_neck.FPNHead` on `fpn_neck.TimmBackbone`, as in our
    recipes. Logits are equal. The weights are ``state_dict`` of the checkpoint: the average, if
    mmengine's EMAHook made one. With ``reduce_zero_label``, label PNGs count from 1, too.

    Args:
        checkpoint, config: see `read_trained`.
        folder: what to write.
        float16: see `Segmenter.save_pretrained`.

    Returns:
        {name in the checkpoint: name in the folder}, and the names of an auxiliary head, which are
        left out.

    Raises:
        FileNotFoundError, ValueError: see `read_trained` and `load_model`; a Segmenter does not
            hold this model or its test pipeline. Names the reason.
    """
    cfg, read = read_trained(checkpoint, config)
    model = load_model(cfg, read, "cpu", scope="mmseg")
    complete_names(model, cfg, read, "classes", "palette", scope="mmseg")
    refuse_slides(model)
    metadata = image_metadata(model, cfg, "segmentation")
    _check(model, metadata)
    segmenter = Segmenter(**_arguments(model, cfg.model.to_dict()))
    names = {
        name: name.replace(*_HEADS, 1) if name.startswith(_HEADS[0]) else name
        for name in model.state_dict()
        if not name.startswith(_TRAINING_ONLY)
    }
    result = Conversion(mapped=names)
    result.ignored = [name for name in model.state_dict() if name not in names]
    result.state_dict = {new: model.state_dict()[old] for old, new in names.items()}
    segmenter.load_state_dict(result.state_dict)
    segmenter.save_pretrained(
        folder,
        classes=list(model.dataset_meta["classes"]),
        palette=model.dataset_meta["palette"],
        mean=cfg.model.data_preprocessor.mean,
        std=cfg.model.data_preprocessor.std,
        fit=metadata.fit,
        exact=metadata.exact,
        first_value=int(reduces_zero_label(cfg, model.dataset_meta)),
        float16=float16,
    )
    return result


def _check(model: BaseModel, metadata: Metadata) -> None:
    """Refuse what a Segmenter computes in another way."""
    backbone, neck, head = model.backbone, getattr(model, "neck", None), model.decode_head
    reason = ""
    if type(backbone).__name__ != "TimmBackbone":  # its module needs timm
        reason = f"backbone {type(backbone).__name__}, only fpn_neck.TimmBackbone"
    elif type(neck) is not FPN:
        reason = f"neck {type(neck).__name__}, only fpn_neck.FPN"
    elif type(head) is not FPNHead:
        reason = f"decode head {type(head).__name__}, only fpn_neck.FPNHead"
    elif list(head.in_index) != list(range(neck.num_outs)):
        reason = f"decode_head.in_index={head.in_index}, only all {neck.num_outs} levels in order"
    elif list(head.feature_strides) != list(neck.output_strides(backbone.strides)):
        reason = f"decode_head.feature_strides={head.feature_strides}, only those of the levels"
    elif metadata.channels != "RGB":
        reason = "BGR images: it takes RGB (bgr_to_rgb=True)"
    elif head.out_channels == 1 and head.threshold != _THRESHOLD:
        reason = f"decode_head.threshold={head.threshold}, only {_THRESHOLD}"
    elif head.out_channels not in (1, head.num_classes):
        reason = f"{head.out_channels} logits for {head.num_classes} classes"
    if reason:
        raise ValueError(f"a Segmenter holds no {reason}")


def _arguments(model: BaseModel, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the Segmenter: what the config says of backbone and neck, what the head was built with."""
    options = {
        part: {k: v for k, v in config[part].items() if k not in _NOT_OPTIONS}
        for part in ("backbone", "neck")
    }
    head = model.decode_head
    arguments = {
        "backbone": config["backbone"]["model_name"],
        "num_classes": head.out_channels,
        "backbone_options": options["backbone"],
        "neck": options["neck"],
        "head": {
            "channels": head.scale_heads.channels,
            "merge": head.scale_heads.merge,
            "dropout": head.dropout_ratio,
            "conv_cfg": head.conv_cfg,
            "norm_cfg": head.norm_cfg,
            "act_cfg": head.act_cfg,
            "align_corners": head.align_corners,
        },
    }
    for _, part in dicts(arguments):
        if part.get("type") == "SyncBN":  # the same weights, for one process
            part["type"] = "BN"
    return arguments


def to_mmseg(folder: str | Path, checkpoint: str | Path) -> Conversion:
    """Write a checkpoint of mmseg of a folder; it holds its config, as one of training does.

    `fpn_neck.load`, test and mmseg take it, and it starts a training by ``load_from``.

    Args:
        folder: of `Segmenter.save_pretrained`, with a timm backbone.
        checkpoint: the .pth file to write.

    Raises:
        FileNotFoundError, ValueError: see `Segmenter.from_pretrained`; nothing can be written.
    """
    architecture, facts = read_config(Path(folder))
    model = Segmenter.from_pretrained(folder)
    names = {
        name: name.replace(*_HEADS[::-1], 1) if name.startswith(_HEADS[1]) else name
        for name in model.state_dict()
    }
    result = Conversion(mapped=names)
    result.state_dict = {new: model.state_dict()[old] for old, new in names.items()}
    config = _config(model, architecture, facts)
    palette = facts.palette or default_palette(len(facts.classes))
    meta = {
        "dataset_meta": {"classes": facts.classes, "palette": palette},
        "cfg": "".join(f"{name} = {value!r}\n" for name, value in config.items()),
    }
    content = {"meta": meta, "state_dict": result.state_dict}
    write_whole(Path(checkpoint), partial(torch.save, content))
    return result


def _config(model: Segmenter, architecture: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """What `config_in_checkpoint` reads: scope, model and test pipeline."""
    resize = {}
    if facts.fit or facts.exact:
        resize = {"scale": facts.fit or facts.exact, "keep_ratio": bool(facts.fit)}
    pipeline = [
        {"type": "LoadImageFromFile"},
        *([{"type": "Resize", **resize}] if resize else []),
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    return {
        "default_scope": "mmseg",
        "model": {
            "type": "fpn_neck.EncoderDecoder",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": list(facts.mean),
                "std": list(facts.std),
                "bgr_to_rgb": True,
            },
            "backbone": {
                "type": "fpn_neck.TimmBackbone",
                "model_name": architecture["backbone"],
                **(architecture.get("backbone_options") or {}),
                "pretrained": False,
                "checkpoint": None,
            },
            "neck": {
                "type": "fpn_neck.FPN",
                "in_channels": list(model.neck.in_channels),
                **(architecture.get("neck") or {}),
            },
            "decode_head": _head(model, architecture),
            "test_cfg": {"mode": "whole"},
        },
        "test_dataloader": {
            "dataset": {"pipeline": pipeline, "reduce_zero_label": bool(facts.first_value)}
        },
    }


def _head(model: Segmenter, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an `FPNHead`, whose defaults are mmseg's and not those of `SegHead`."""
    defaults = {name: p.default for name, p in signature(SegHead).parameters.items()}
    options = defaults | dict(architecture.get("head") or {})
    logits, levels = architecture["num_classes"], model.neck.num_outs
    head = {
        "type": "fpn_neck.FPNHead",
        "in_channels": [model.neck.out_channels] * levels,
        "in_index": list(range(levels)),
        "feature_strides": list(model.neck.output_strides(model.backbone.strides)),
        "dropout_ratio": options["dropout"],
        "num_classes": max(2, logits),
        **{k: options[k] for k in _LAYERS},
    }
    if logits > 1:
        return head
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    return {**head, "out_channels": 1, "threshold": _THRESHOLD, "loss_decode": loss}
