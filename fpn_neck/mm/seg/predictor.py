"""Trained mmseg models on photos."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.models import EncoderDecoder

from fpn_neck.mm.config.names import names_in_config
from fpn_neck.mm.config.tta import use_tta
from fpn_neck.mm.config.types import type_class
from fpn_neck.mm.explain import explained
from fpn_neck.mm.predictor import PhotoModel, complete_names, load_model
from fpn_neck.utils.photos import name_of
from fpn_neck.utils.results.predictor import Photo, Predictor
from fpn_neck.utils.results.result import Result
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import data_sets
from fpn_neck.weights.checkpoints import Checkpoint


class SegmentationPredictor(Predictor):
    """A trained mmseg model on photos: their ``labels``.

    mmseg's ``EncoderDecoder`` becomes `fpn_neck.EncoderDecoder`, which gives the same labels in
    less memory.

    Args:
        cfg, checkpoint, device, allow_mismatch: see `fpn_neck.mm.predictor.load_model`.
        tta: test-time augmentation by the config's ``tta_model`` and ``tta_pipeline``.

    Attributes:
        cfg: the config that the model was built from.
        model: mmseg's, in eval mode.
        classes: names of the labels.

    Raises:
        FileNotFoundError, ValueError: see `fpn_neck.mm.predictor.load_model`; neither the
            checkpoint nor the config holds names of its labels; the config has no
            augmentation.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Checkpoint,
        device: str = "auto",
        *,
        allow_mismatch: bool = False,
        tta: bool = False,
    ) -> None:
        cfg = copy.deepcopy(cfg)
        if type_class(cfg.model, MODELS, cfg.get("default_scope") or "mmseg") is EncoderDecoder:
            cfg.model.type = "fpn_neck.EncoderDecoder"
        if tta:
            use_tta(cfg)
        model = load_model(cfg, checkpoint, device, scope="mmseg", allow_mismatch=allow_mismatch)
        complete_names(model, cfg, checkpoint, "classes", "palette", scope="mmseg")
        self.cfg = cfg
        self.classes = tuple(model.dataset_meta["classes"])
        self._palette = model.dataset_meta["palette"]
        self._first_value = int(reduces_zero_label(cfg, model.dataset_meta))
        self.model = model
        self._of_photos = PhotoModel(model, cfg, scope="mmseg")

    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        return [
            self._result(photo, sample, image)
            for photo, (sample, image) in zip(photos, self._of_photos(photos), strict=True)
        ]

    def _result(self, photo: Photo, sample: Any, image: np.ndarray) -> Result:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        # int64 would take 8 bytes a pixel. mmseg gives floats for one logit.
        labels = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
        return Result(
            image,
            self.classes,
            self._palette,
            photo=name_of(photo),
            labels=labels,
            first_value=self._first_value,
        )


def reduces_zero_label(cfg: Config, meta: Mapping[str, Any]) -> bool:
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
