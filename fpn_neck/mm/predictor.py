"""What the predictors of mmseg and mmdet have in common: their interface, the model, the photo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from fpn_neck.mm.config.load import drop_pretraining, photo_pipeline
from fpn_neck.mm.explain import explained
from fpn_neck.utils.arguments import check_device
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint, matching_weights


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one photo; a field that the model does not predict is None.

    Attributes:
        draw: returns the overlay: the photo with the prediction on it or beside it.
        labels: class of every pixel, whole numbers (H, W) at the photo's size.
        boxes: ``{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2] in px}``, best first.
    """

    draw: Callable[[], Image.Image]
    labels: np.ndarray | None = None
    boxes: list[dict[str, Any]] | None = None


class Predictor(Protocol):
    """A trained model on photos.

    Attributes:
        cfg: the config that the model was built from.
    """

    cfg: Config

    def __call__(self, path: Path, photo: np.ndarray) -> Prediction:
        """Predict one photo.

        Args:
            path: the photo's file.
            photo: its pixels, uint8 (H, W, 3), BGR.
        """


def load_model(
    cfg: Config, checkpoint: str, device: str, *, scope: str, allow_mismatch: bool = False
) -> BaseModel:
    """Build a config's model with the weights of a checkpoint, for evaluation.

    ``model.dataset_meta`` holds what the checkpoint says of its data set, such as ``classes``.

    Args:
        cfg: the config that the checkpoint was trained with; it is not changed.
        checkpoint: a file; every weight must be in it.
        device: 'cpu', 'cuda', 'cuda:1', ...
        scope: 'mmseg' or 'mmdet', for a config without ``default_scope``.
        allow_mismatch: load the weights that fit the model, and warn of the others.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the device does not exist, the checkpoint cannot be read or is of another
            model, or a part of the config cannot be built.
    """
    check_device(device)
    content = load_checkpoint(checkpoint)
    state = find_state_dict(content)
    with (
        explained(cfg, "test"),
        DefaultScope.overwrite_default_scope(cfg.get("default_scope", scope)),
    ):
        model = revert_sync_batchnorm(MODELS.build(_without_pretraining(cfg.model)))
    state = matching_weights(model.state_dict(), state, checkpoint, allow_mismatch=allow_mismatch)
    model.load_state_dict(state, strict=not allow_mismatch)
    model.dataset_meta = _dataset_meta(content)
    return model.to(device).eval()


def _without_pretraining(model: Any) -> Any:
    model = copy.deepcopy(model)
    drop_pretraining(model)
    if model.get("pretrained"):  # mmseg's name for the weights of the backbone
        model["pretrained"] = None
    return model


def _dataset_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's facts, from where the frameworks' versions put them."""
    meta = checkpoint.get("meta") or {}
    before_mmengine = {key: meta.get(key) for key in ("CLASSES", "PALETTE")}  # mmseg 0, mmdet 2
    found = meta.get("dataset_meta", before_mmengine)
    return {key.lower(): value for key, value in found.items() if value is not None}


def check_names(model: BaseModel, checkpoint: str, *keys: str) -> None:
    """Refuse a model whose checkpoint does not say what its labels mean.

    Args:
        checkpoint: the file, for the message.
        *keys: what ``model.dataset_meta`` must hold, such as 'classes' and 'palette'.

    Raises:
        ValueError: a key is missing.
    """
    missing = [key for key in keys if key not in model.dataset_meta]
    if missing:
        raise ValueError(
            f"checkpoint {checkpoint} holds no dataset_meta with {' and '.join(missing)} of its "
            "labels; use the file that training saved"
        )


class PhotoModel:
    """A model with the test pipeline of its config, for one photo at a time.

    Args:
        model: see `load_model`.
        cfg: its config.
        scope: 'mmseg' or 'mmdet', for a config without ``default_scope``.

    Raises:
        ValueError: a transform of the pipeline cannot be built.
    """

    def __init__(self, model: BaseModel, cfg: Config, *, scope: str) -> None:
        self.model = model
        pipeline = photo_pipeline(cfg.test_dataloader.dataset.pipeline)
        with (
            explained(cfg, "test"),
            DefaultScope.overwrite_default_scope(cfg.get("default_scope", scope)),
        ):
            self._pipeline = Compose(pipeline)

    @torch.inference_mode()
    def __call__(self, photo: np.ndarray, **fields: Any) -> Any:
        """Predict one photo.

        Args:
            photo: uint8 (H, W, 3), BGR.
            **fields: what else the pipeline reads, such as ``img_path`` and ``proposals``.

        Returns:
            The framework's data sample.
        """
        data = self._pipeline({"img": photo, **fields})
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        return self.model.test_step(batch)[0]
