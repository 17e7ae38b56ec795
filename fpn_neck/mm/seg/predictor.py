"""Trained mmseg models on photos."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.models import EncoderDecoder
from PIL import Image

from fpn_neck.mm.config.names import names_in_config
from fpn_neck.mm.config.types import type_class
from fpn_neck.mm.explain import explained
from fpn_neck.mm.photos import picture_of
from fpn_neck.mm.predictor import PhotoModel, Prediction, complete_names, load_model
from fpn_neck.utils.pictures import side_by_side
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import data_sets


class SegmentationPredictor:
    """A trained mmseg model on photos, see `fpn_neck.mm.predictor.Predictor`.

    mmseg's ``EncoderDecoder`` becomes `fpn_neck.EncoderDecoder`, which gives the same labels in
    less memory.

    Args:
        cfg, checkpoint, device, allow_mismatch: see `fpn_neck.mm.predictor.load_model`.

    Attributes:
        cfg: the config that the model was built from.

    Raises:
        FileNotFoundError, ValueError: see `fpn_neck.mm.predictor.load_model`; neither the
            checkpoint nor the config holds names and colours of its labels.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str = "cpu", *, allow_mismatch: bool = False
    ) -> None:
        if type_class(cfg.model, MODELS, cfg.get("default_scope") or "mmseg") is EncoderDecoder:
            cfg = copy.deepcopy(cfg)
            cfg.model.type = "fpn_neck.EncoderDecoder"
        model = load_model(cfg, checkpoint, device, scope="mmseg", allow_mismatch=allow_mismatch)
        complete_names(model, cfg, checkpoint, "classes", "palette", scope="mmseg")
        self.cfg = cfg
        self._meta = model.dataset_meta
        self._first_value = int(_reduces_zero_label(cfg, self._meta))
        self._model = PhotoModel(model, cfg, scope="mmseg")

    def __call__(self, path: Path) -> Prediction:
        """A photo's file -> its ``labels``.

        Raises:
            PhotoError: see `fpn_neck.mm.photos.load_photo`.
        """
        sample, image = self._model(path)
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        # int64 would take 8 bytes a pixel. mmseg gives floats for one logit.
        labels = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
        draw = partial(self._draw, image, labels)
        return Prediction(labels=labels, first_value=self._first_value, draw=draw)

    def _draw(self, image: np.ndarray, labels: np.ndarray) -> Image.Image:
        """The photo, the labels over it, and a legend."""
        classes, palette = self._meta["classes"], self._meta["palette"]
        return side_by_side(picture_of(image), {"prediction": labels}, classes, palette)


def _reduces_zero_label(cfg: Config, meta: Mapping[str, Any]) -> bool:
    """Whether class 0 is 1 in the masks: the config's data set says it, as in testing.

    Raises:
        ValueError: the data set cannot be built, and neither its config nor the checkpoint says it.
    """
    key = "reduce_zero_label"
    part = next(data_sets((cfg.get("test_dataloader") or {}).get("dataset")), {})
    if key in part:
        return bool(part[key])
    try:
        with explained(cfg, "test"):
            names = names_in_config(cfg, cfg.get("default_scope") or "mmseg")
    except Exception as e:  # of any type: the data set's own, which may need its files
        if key not in meta:
            raise ValueError(
                "whether labels count from 0 or 1 in the masks is not known, since the data set "
                f"cannot be built ({one_line(e)}); set test_dataloader.dataset.{key}=True or False"
            ) from e
        names = {}
    return bool(names.get(key, meta.get(key, False)))
