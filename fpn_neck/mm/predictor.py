"""What the predictors of mmseg and mmdet have in common: the model, its names, the photos."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel, BaseTTAModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from fpn_neck.datasets.check.heads import check_heads
from fpn_neck.mm.config.load import drop_pretraining
from fpn_neck.mm.config.names import names_in_config
from fpn_neck.mm.config.pipelines import check_moving, reshaping, stretched
from fpn_neck.mm.config.recorded import check_settings
from fpn_neck.mm.explain import explained
from fpn_neck.mm.photos import load_photo, picture_of, run_transform, without_annotations
from fpn_neck.utils.arguments import check_device
from fpn_neck.utils.photos import PhotoError
from fpn_neck.utils.results.pictures import default_palette
from fpn_neck.utils.results.predictor import Photo
from fpn_neck.utils.walk import data_sets
from fpn_neck.weights.checkpoints import Checkpoint, find_state_dict, matching_weights


def load_model(
    cfg: Config,
    checkpoint: str | Checkpoint,
    device: str,
    *,
    scope: str,
    allow_mismatch: bool = False,
) -> BaseModel:
    """Build a config's model with the weights of a checkpoint, for evaluation.

    ``model.dataset_meta`` holds what the checkpoint says of its data set, such as ``classes``.

    Args:
        cfg: the config that the checkpoint was trained with; it is not changed.
        checkpoint: a file, or what was read of it; every weight must be in it.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ..., see `check_device`.
        scope: 'mmseg' or 'mmdet', for a config without ``default_scope``.
        allow_mismatch: load the weights that fit the model, and warn of the others, and of settings
            such as ``align_corners`` or ``mean`` that the checkpoint was not trained with.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the device does not exist, the checkpoint cannot be read, is of another model or
            was trained with other settings, or a part of the config cannot be built.
    """
    device = check_device(device)
    if isinstance(checkpoint, str):
        checkpoint = Checkpoint.read(checkpoint)
    content, name = checkpoint.content, checkpoint.name
    state = find_state_dict(content)
    with (
        explained(cfg, "test"),
        warnings.catch_warnings(),
        DefaultScope.overwrite_default_scope(cfg.get("default_scope") or scope),
    ):
        warnings.filterwarnings("ignore", module=r"mmseg\.models\.(builder|losses)")
        model = revert_sync_batchnorm(MODELS.build(_without_pretraining(cfg.model)))
    inner = without_augmentation(model)
    state = matching_weights(inner.state_dict(), state, name, allow_mismatch=allow_mismatch)
    check_settings(cfg.model, content.get("meta"), name, allow_mismatch=allow_mismatch)
    inner.load_state_dict(state, strict=not allow_mismatch)
    model.dataset_meta = _dataset_meta(content)
    return model.to(device).eval()


def without_augmentation(model: BaseModel) -> BaseModel:
    """The model inside a wrapper for test-time augmentation."""
    return model.module if isinstance(model, BaseTTAModel) else model


def _without_pretraining(model: Any) -> Any:
    model = copy.deepcopy(model)
    drop_pretraining(model)
    for part in (model, model.get("module") or {}):
        if part.get("pretrained"):  # mmseg's name for the weights of the backbone
            part["pretrained"] = None
    return model


def _dataset_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's facts, from where the frameworks' versions put them."""
    meta = checkpoint.get("meta") or {}
    before_mmengine = {key: meta.get(key) for key in ("CLASSES", "PALETTE")}  # mmseg 0, mmdet 2
    found = meta.get("dataset_meta", before_mmengine)
    return {key.lower(): value for key, value in found.items() if value is not None}


def complete_names(
    model: BaseModel, cfg: Config, checkpoint: str | Checkpoint, *keys: str, scope: str
) -> None:
    """Take what a checkpoint does not say of its labels from the config's test data set.

    Labels without colours get `default_palette`'s.

    Args:
        model: its ``dataset_meta`` gets the names.
        cfg: its config.
        checkpoint: the file, for the message.
        *keys: what ``model.dataset_meta`` must hold: 'classes', also 'palette'.
        scope: 'mmseg' or 'mmdet'.

    Raises:
        ValueError: neither the checkpoint nor the config has names; the names are not as many as
            the classes of the model.
    """
    meta = model.dataset_meta
    if all(key in meta for key in keys):
        return
    with explained(cfg, "test"):
        names = names_in_config(cfg, cfg.get("default_scope") or scope)
    if "classes" in meta and list(meta["classes"]) != list(names.get("classes", ())):
        names = {}  # colours of other labels
    model.dataset_meta = meta = {**names, **meta}
    if "classes" not in meta:
        raise ValueError(
            f"checkpoint {checkpoint} holds no names of its labels (dataset_meta), and neither "
            "does the config; give test_dataloader.dataset.metainfo=dict(classes=(...)), or use "
            "the file that training saved"
        )
    _check_number(cfg, checkpoint, meta, in_config="classes" in names)
    meta.setdefault("palette", default_palette(len(meta["classes"])))


def _check_number(
    cfg: Config, checkpoint: str | Checkpoint, names: Mapping[str, Any], *, in_config: bool
) -> None:
    findings = check_heads("the config", "test_dataloader", cfg.model, names)
    if not findings:
        return
    if in_config:
        raise ValueError(
            f"checkpoint {checkpoint} holds no names of its labels, and the config's do not fit: "
            f"{findings[0].value}; give test_dataloader.dataset.metainfo=dict(classes=(...))"
        )
    raise ValueError(
        f"checkpoint {checkpoint}: its dataset_meta names {len(names['classes'])} labels, and the "
        f"config has another number of classes: {findings[0].value}; use the config it was trained "
        "with"
    )


def photo_pipeline(cfg: Config) -> list[dict]:
    """The test pipeline; of joined data sets, that of the first one."""
    return next(data_sets(cfg.test_dataloader.dataset))["pipeline"]


class PhotoModel:
    """A model with the test pipeline of its config.

    The config's own transforms load the photos, as in testing; those that load annotations are
    left out.

    Args:
        model: see `load_model`.
        cfg: its config.
        scope: 'mmseg' or 'mmdet', for a config without ``default_scope``.

    Raises:
        ValueError: a transform of the pipeline cannot be built, or moves labels or boxes.
    """

    def __init__(self, model: BaseModel, cfg: Config, *, scope: str) -> None:
        self.model, self._cfg, self._stretches = model, cfg, scope == "mmseg"
        scope = cfg.get("default_scope") or scope
        with explained(cfg, "test"), DefaultScope.overwrite_default_scope(scope):
            pipeline = without_annotations(photo_pipeline(cfg), scope)
            check_moving(pipeline, "test_dataloader.dataset.pipeline", scope)
            self._transforms = Compose(pipeline).transforms

    @torch.inference_mode()
    def __call__(
        self,
        photos: Sequence[Photo],
        fields_of: Callable[[Photo], dict[str, Any]] = lambda photo: {},
    ) -> list[tuple[Any, np.ndarray]]:
        """Predict photos; those that the pipeline gives the same size run together.

        Photos of other sizes would be padded, which changes what is predicted for them.

        Args:
            fields_of: what else the pipeline reads for a photo, such as ``proposals``.

        Returns:
            For every photo the framework's data sample, and the photo as it is loaded, uint8
            (H, W, 3), RGB.

        Raises:
            PhotoError: see `load_photo`.
            ValueError: the photos don't fit into memory.
        """
        with explained(self._cfg, "test", building=False):
            prepared = [self._prepare(photo, fields_of(photo)) for photo in photos]
            groups: dict[Any, list[int]] = {}
            for i, (data, _) in enumerate(prepared):
                groups.setdefault(_shapes(data["inputs"]), []).append(i)
            samples: dict[int, Any] = {}
            for members in groups.values():
                batch = pseudo_collate([prepared[i][0] for i in members])
                samples |= zip(members, self.model.test_step(batch), strict=True)
        return [(samples[i], picture_of(image)) for i, (_, image) in enumerate(prepared)]

    def _prepare(self, photo: Photo, fields: dict[str, Any]) -> tuple[dict, np.ndarray]:
        """What the pipeline gives, and the image as it loads it."""
        if isinstance(photo, np.ndarray):
            # The pipeline's own loader decides on colours and depth, and it reads files only.
            with TemporaryDirectory() as folder:
                path = Path(folder) / "photo.png"
                Image.fromarray(photo).save(path, compress_level=0)
                return self._prepare(path, fields)
        data, count = load_photo(self._transforms, photo, **fields)
        image = data["img"]
        for transform in self._transforms[count:]:
            before = data["img"].shape if self._stretches and reshaping(transform) else None
            data = run_transform(transform, data)
            if before and before != data["img"].shape:
                raise PhotoError(stretched(transform, before, data["img"].shape))
        return {key: data[key] for key in ("inputs", "data_samples")}, image


def _shapes(inputs: Any) -> Any:
    """Of a tensor, or of every view of a photo that test-time augmentation makes."""
    return tuple(map(_shapes, inputs)) if isinstance(inputs, list) else tuple(inputs.shape)
