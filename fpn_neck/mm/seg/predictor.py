"""Trained mmseg models on photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.apis import init_model

from fpn_neck.mm.config.load import drop_pretraining, photo_pipeline
from fpn_neck.utils.command_line import check_device
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint, matching_weights


class Predictor:
    """A trained mmseg model on photos.

    Args:
        cfg: the config it was trained with.
        checkpoint: its checkpoint file; every weight must be in it.
        device: 'cpu', 'cuda', 'cuda:1', ...
        allow_mismatch: load what fits of a checkpoint of another model; warns of the rest.

    Attributes:
        classes, palette: name and RGB of every label.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, unreadable, or of another model.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str = "cpu", *, allow_mismatch: bool = False
    ) -> None:
        check_device(device)
        state = load_checkpoint(checkpoint)
        drop_pretraining(cfg.model)
        if cfg.model.type == "EncoderDecoder":  # labels are all that is wanted
            cfg.model.type = "fpn_neck.EncoderDecoder"
        model = init_model(cfg, device=device)
        weights = find_state_dict(state)
        weights = matching_weights(
            model.state_dict(), weights, checkpoint, allow_mismatch=allow_mismatch
        )
        model.load_state_dict(weights, strict=not allow_mismatch)
        self.classes, self.palette = _names(state.get("meta", {}), checkpoint)
        self._model = model
        self._pipeline = Compose(photo_pipeline(cfg.test_dataloader.dataset.pipeline))

    @torch.inference_mode()
    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Photo, uint8 (H, W, 3) in BGR -> labels (H, W), int64 in 0..K-1."""
        data = self._pipeline({"img": photo})
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        return self._model.test_step(batch)[0].pred_sem_seg.data[0].cpu().numpy()


def _names(meta: dict, checkpoint: str) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Names and colours of the labels, where mmseg 1 or mmseg 0 put them."""
    if "dataset_meta" in meta:
        return meta["dataset_meta"]["classes"], meta["dataset_meta"]["palette"]
    if "CLASSES" in meta:
        return meta["CLASSES"], meta["PALETTE"]
    raise ValueError(f"checkpoint {checkpoint} holds no dataset_meta: no names for its labels")
