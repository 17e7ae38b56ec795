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

from fpn_neck.datasets.check.heads import check_classes
from fpn_neck.mm.config.load import drop_pretraining
from fpn_neck.mm.config.names import names_in_config
from fpn_neck.mm.config.recorded import check_settings
from fpn_neck.mm.explain import explained
from fpn_neck.mm.photos import load_photo, run_transform, without_annotations
from fpn_neck.utils.arguments import check_device
from fpn_neck.utils.walk import data_sets
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint, matching_weights


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one photo; a field that the model does not predict is None.

    Attributes:
        draw: returns the overlay: the photo with the prediction on it or beside it.
        labels: class of every pixel, whole numbers (H, W) at the photo's size.
        first_value: what the data set's masks hold for class 0: 1 with ``reduce_zero_label``.
        boxes: ``{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2] in px}``, best first.
    """

    draw: Callable[[], Image.Image]
    labels: np.ndarray | None = None
    first_value: int = 0
    boxes: list[dict[str, Any]] | None = None


class Predictor(Protocol):
    """A trained model on photos.

    Attributes:
        cfg: the config that the model was built from.
    """

    cfg: Config

    def __call__(self, path: Path) -> Prediction:
        """Predict one photo from its file.

        Raises:
            PhotoError: see `fpn_neck.mm.photos.load_photo`.
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
        allow_mismatch: load the weights that fit the model, and warn of the others, and of settings
            such as ``align_corners`` or ``mean`` that the checkpoint was not trained with.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the device does not exist, the checkpoint cannot be read, is of another model or
            was trained with other settings, or a part of the config cannot be built.
    """
    check_device(device)
    content = load_checkpoint(checkpoint)
    state = find_state_dict(content)
    with (
        explained(cfg, "test"),
        DefaultScope.overwrite_default_scope(cfg.get("default_scope") or scope),
    ):
        model = revert_sync_batchnorm(MODELS.build(_without_pretraining(cfg.model)))
    state = matching_weights(model.state_dict(), state, checkpoint, allow_mismatch=allow_mismatch)
    check_settings(cfg.model, content.get("meta"), checkpoint, allow_mismatch=allow_mismatch)
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


def complete_names(model: BaseModel, cfg: Config, checkpoint: str, *keys: str, scope: str) -> None:
    """Take what a checkpoint does not say of its labels from the config's test data set.

    Args:
        model: its ``dataset_meta`` gets the names.
        cfg: its config.
        checkpoint: the file, for the message.
        *keys: what ``model.dataset_meta`` must hold, such as 'classes' and 'palette'.
        scope: 'mmseg' or 'mmdet'.

    Raises:
        ValueError: neither the checkpoint nor the config has a key; the config's names are not as
            many as the classes of its model.
    """
    meta = model.dataset_meta
    if all(key in meta for key in keys):
        return
    with explained(cfg, "test"):
        names = names_in_config(cfg, cfg.get("default_scope") or scope)
    if "classes" in meta and list(meta["classes"]) != list(names.get("classes", ())):
        names = {}  # colours of other labels
    elif "classes" in names:
        _check_number(cfg, checkpoint, names)
    model.dataset_meta = meta = {**names, **meta}
    missing = [key for key in keys if key not in meta]
    if missing:
        words = " and ".join(missing)
        raise ValueError(
            f"checkpoint {checkpoint} holds no dataset_meta with {words} of its labels, and "
            "neither does the config; give test_dataloader.dataset.metainfo=dict(classes=(...), "
            "palette=[...]), or use the file that training saved"
        )


def _check_number(cfg: Config, checkpoint: str, names: Mapping[str, Any]) -> None:
    findings = check_classes("the config", "test_dataloader", cfg.model, names)
    if findings:
        raise ValueError(
            f"checkpoint {checkpoint} holds no names of its labels, and the config's do not fit: "
            f"{findings[0].value}; give test_dataloader.dataset.metainfo=dict(classes=(...))"
        )


def photo_pipeline(cfg: Config) -> list[dict]:
    """The test pipeline; of joined data sets, that of the first one."""
    return next(data_sets(cfg.test_dataloader.dataset))["pipeline"]


class PhotoModel:
    """A model with the test pipeline of its config, for one photo at a time.

    The config's own transforms load the photo, as in testing; those that load annotations are
    left out.

    Args:
        model: see `load_model`.
        cfg: its config.
        scope: 'mmseg' or 'mmdet', for a config without ``default_scope``.

    Raises:
        ValueError: a transform of the pipeline cannot be built.
    """

    def __init__(self, model: BaseModel, cfg: Config, *, scope: str) -> None:
        self.model = model
        scope = cfg.get("default_scope") or scope
        with explained(cfg, "test"), DefaultScope.overwrite_default_scope(scope):
            pipeline = without_annotations(photo_pipeline(cfg), scope)
            self._transforms = Compose(pipeline).transforms

    @torch.inference_mode()
    def __call__(self, path: Path, **fields: Any) -> tuple[Any, np.ndarray]:
        """Predict one photo.

        Args:
            path: the photo's file.
            **fields: what else the pipeline reads, such as ``proposals``.

        Returns:
            The framework's data sample, and the image as the pipeline loads it.

        Raises:
            PhotoError: see `load_photo`.
        """
        data, count = load_photo(self._transforms, path, **fields)
        image = data["img"]
        for transform in self._transforms[count:]:
            data = run_transform(transform, data)
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        return self.model.test_step(batch)[0], image
