"""Trained mmseg models on photos."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.models import EncoderDecoder
from PIL import Image

from fpn_neck.mm.config.types import type_class
from fpn_neck.mm.photos import picture_of
from fpn_neck.mm.predictor import PhotoModel, Prediction, complete_names, load_model
from fpn_neck.utils.pictures import side_by_side


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
        return Prediction(labels=labels, draw=partial(self._draw, image, labels))

    def _draw(self, image: np.ndarray, labels: np.ndarray) -> Image.Image:
        """The photo, the labels over it, and a legend."""
        classes, palette = self._meta["classes"], self._meta["palette"]
        return side_by_side(picture_of(image), {"prediction": labels}, classes, palette)
