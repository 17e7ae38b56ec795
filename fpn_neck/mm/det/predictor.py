"""Trained mmdet detectors on photos, Fast R-CNN with its proposals among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.models import RPN
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from fpn_neck.mm.config.load import drop_pretraining, photo_pipeline
from fpn_neck.mm.det.drawer import Drawer
from fpn_neck.mm.det.proposals_file import fits_file, key_of, load_proposals
from fpn_neck.utils.command_line import check_device
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint, matching_weights

Propose = Callable[[Path, np.ndarray], np.ndarray]  # file, BGR photo -> boxes (n, 4) in its px


def load_model(
    cfg: Config, checkpoint: str, device: str = "cpu", *, allow_mismatch: bool = False
) -> BaseDetector:
    """Build an mmdet config's model with all of its weights from a checkpoint, for evaluation.

    With ``allow_mismatch`` with those that fit; warns of the rest.

    ``model.dataset_meta`` is what the checkpoint says of its classes, or {}.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint or device, unreadable, of another model.
    """
    check_device(device)
    content = load_checkpoint(checkpoint)
    state = find_state_dict(content)
    drop_pretraining(cfg.model)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    state = matching_weights(model.state_dict(), state, checkpoint, allow_mismatch=allow_mismatch)
    model.load_state_dict(state, strict=not allow_mismatch)
    meta = content.get("meta", {})
    old = {"classes": meta["CLASSES"]} if "CLASSES" in meta else {}  # mmdet 2
    model.dataset_meta = {k.lower(): v for k, v in meta.get("dataset_meta", old).items()}
    if isinstance(model, RPN):  # tells objects from background, whatever the data set's classes
        model.dataset_meta = {"classes": ("object",)}
    elif allow_mismatch and "classes" in model.dataset_meta:
        model.dataset_meta = _with_names_for_all(model)
    return model.to(device).eval()


def _with_names_for_all(model: BaseDetector) -> dict[str, Any]:
    """A checkpoint of fewer classes names them; the others are called by their numbers."""
    names = tuple(model.dataset_meta["classes"])
    counts = [getattr(m, "num_classes", 0) for m in model.modules()]
    rest = range(len(names), max(k for k in counts if isinstance(k, int)))
    if not rest:
        return model.dataset_meta
    return {"classes": (*names, *(f"class {k}" for k in rest))}


def load_rpn(cfg: Config, checkpoint: str, device: str = "cpu") -> RPN:
    """`load_model` for an RPN.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; another kind of model.
    """
    model = load_model(cfg, checkpoint, device)
    if not isinstance(model, RPN):
        raise ValueError(f"model.type={cfg.model.type!r}: proposals come from an RPN's config")
    return model


class Detector:
    """A trained mmdet detector on photos.

    Args:
        model: see `load_model`.
        cfg: its config.
        propose: where a detector without an RPN of its own takes its boxes from; only for those.

    Raises:
        ValueError: the model has no names for its labels; ``propose`` is missing or one too many.
    """

    def __init__(self, model: BaseDetector, cfg: Config, propose: Propose | None = None) -> None:
        pipeline = cfg.test_dataloader.dataset.pipeline
        needs = any(str(t["type"]).endswith("LoadProposals") for t in pipeline)
        if needs and propose is None:
            raise ValueError(
                f"model.type={cfg.model.type!r} needs boxes to look at: give --proposals FILE or "
                "--rpn CONFIG CHECKPOINT"
            )
        if propose is not None and not needs:
            raise ValueError(
                f"model.type={cfg.model.type!r} finds its boxes itself: leave out --proposals and "
                "--rpn, which are for Fast R-CNN"
            )
        if "classes" not in model.dataset_meta:
            raise ValueError("the checkpoint holds no dataset_meta: no names for its labels")
        self._model, self._propose = model, propose
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
            self._pipeline = Compose(photo_pipeline(pipeline))
        self._classes = model.dataset_meta["classes"]
        self._drawer = Drawer(model.dataset_meta)

    @torch.inference_mode()
    def __call__(self, path: Path, photo: np.ndarray) -> DetDataSample:
        """What mmdet predicts, in px of the photo and on the CPU.

        Args:
            path: the photo's file, by which proposals are looked up.
            photo: uint8 (H, W, 3), BGR.
        """
        data: dict[str, Any] = {"img": photo, "img_path": str(path), "img_id": 0}
        if self._propose is not None:
            data["proposals"] = {"bboxes": self._propose(path, photo)}
        data = self._pipeline(data)
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        return self._model.test_step(batch)[0].cpu()

    def draw(self, photo: np.ndarray, sample: DetDataSample, score_thr: float) -> Image.Image:
        """The photo, uint8 (H, W, 3) in BGR, with the detections above a score."""
        return self._drawer(photo[..., ::-1], sample, score_thr, draw_gt=False)

    def boxes_of(self, sample: DetDataSample) -> list[dict[str, Any]]:
        """Detections as ``{"label": name, "score": 0 to 1, "box": [x1, y1, x2, y2] in px}``.

        Best first; none for a panoptic model, which predicts segments.
        """
        found = sample.get("pred_instances")
        if found is None:
            return []
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True)
        return [
            {"label": self._classes[k], "score": round(score, 4), "box": [round(x, 2) for x in box]}
            for k, score, box in rows
        ]


def proposals_of_file(file: str) -> Propose:
    """Boxes from a proposals file, or from a JSON file ``{photo: [[x1, y1, x2, y2], ...]}``.

    Photos are looked up by folder name and file name; in a JSON file also by the path as it is
    given, and by the file name alone.

    Raises:
        FileNotFoundError, ValueError: see `load_proposals`.
    """
    proposals = load_proposals(file)
    is_json = Path(file).suffix == ".json"

    def propose(path: Path, photo: np.ndarray) -> np.ndarray:
        names = [str(path), key_of(path), path.name] if is_json else [key_of(path)]
        found = next((proposals[name] for name in names if name in proposals), None)
        if found is None:
            raise ValueError(f"{file} has no entry for it, {' or '.join(dict.fromkeys(names))}")
        if not fits_file(found, path):
            raise ValueError(f"{file} has the boxes of another photo of the name {key_of(path)}")
        return found.boxes

    return propose


def proposals_of_rpn(cfg: Config, checkpoint: str, device: str = "cpu") -> Propose:
    """Boxes from a trained RPN, best first.

    Raises:
        FileNotFoundError, ValueError: see `load_rpn`.
    """
    rpn = Detector(load_rpn(cfg, checkpoint, device), cfg)
    return lambda path, photo: rpn(path, photo).pred_instances.bboxes.numpy()
