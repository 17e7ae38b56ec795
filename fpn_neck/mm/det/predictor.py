"""Trained mmdet detectors on photos, also Fast R-CNN with precomputed proposals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.models import RPN
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from PIL import Image

from fpn_neck.mm.det.config_proposals import loads_proposals
from fpn_neck.mm.det.drawer import Drawer
from fpn_neck.mm.det.proposals_file import load_proposals, matches_file_size, photo_key
from fpn_neck.mm.photos import picture_of
from fpn_neck.mm.predictor import PhotoModel, Prediction, complete_names, load_model, photo_pipeline
from fpn_neck.utils.walk import type_name

# The file of a photo -> boxes, float (n, 4), in its px.
ProposalSource = Callable[[Path], np.ndarray]


class DetectionPredictor:
    """A trained mmdet detector on photos, see `fpn_neck.mm.predictor.Predictor`.

    Args:
        cfg, checkpoint, device, allow_mismatch: see `fpn_neck.mm.predictor.load_model`.
        proposal_source: gives the boxes for a detector that has no RPN; None for all others.
        score_thr: the overlay hides boxes with a lower score.

    Attributes:
        cfg: the config that the model was built from.

    Raises:
        FileNotFoundError, ValueError: see `fpn_neck.mm.predictor.load_model`; neither the
            checkpoint nor the config holds names of its labels; the detector needs
            a proposal source, or takes none.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: str = "cpu",
        *,
        allow_mismatch: bool = False,
        proposal_source: ProposalSource | None = None,
        score_thr: float = 0.3,
    ) -> None:
        model = load_model(cfg, checkpoint, device, scope="mmdet", allow_mismatch=allow_mismatch)
        if isinstance(model, RPN):  # it tells objects from background, whatever the data set holds
            model.dataset_meta = {"classes": ("object",)}
        _check_proposal_source(cfg, proposal_source)
        complete_names(model, cfg, checkpoint, "classes", scope="mmdet")
        if allow_mismatch and not isinstance(model, RPN):
            model.dataset_meta = _with_names_for_all(model)
        self.cfg, self.score_thr = cfg, score_thr
        self._proposal_source = proposal_source
        self._model = PhotoModel(model, cfg, scope="mmdet")
        self._classes = model.dataset_meta["classes"]
        self._drawer = Drawer(model.dataset_meta)

    def __call__(self, path: Path) -> Prediction:
        """A photo's file -> its ``boxes``.

        A panoptic model predicts segments. They are drawn, and there are no boxes.

        Raises:
            PhotoError: see `fpn_neck.mm.photos.load_photo`.
        """
        fields: dict[str, Any] = {"img_id": 0}
        if self._proposal_source is not None:
            fields["proposals"] = {"bboxes": self._proposal_source(path)}
        sample, image = self._model(path, **fields)
        sample = sample.cpu()
        draw = partial(self._draw, image, sample)
        return Prediction(boxes=self._boxes(sample), draw=draw)

    def _draw(self, image: np.ndarray, sample: DetDataSample) -> Image.Image:
        return self._drawer(picture_of(image), sample, self.score_thr, draw_gt=False)

    def _boxes(self, sample: DetDataSample) -> list[dict[str, Any]]:
        found = sample.get("pred_instances")
        if found is None:
            return []
        labels, scores, boxes = found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist()
        return [
            {
                "label": self._classes[label],
                "score": round(score, 4),
                "box": [round(x, 2) for x in box],
            }
            for label, score, box in zip(labels, scores, boxes, strict=True)
        ]


def _check_proposal_source(cfg: Config, proposal_source: ProposalSource | None) -> None:
    needs = loads_proposals(photo_pipeline(cfg))
    kind = f"model.type={type_name(cfg.model)!r}"
    if needs and proposal_source is None:
        raise ValueError(
            f"{kind} needs boxes to look at: give --proposals FILE or --rpn CONFIG CHECKPOINT"
        )
    if proposal_source is not None and not needs:
        raise ValueError(
            f"{kind} finds its boxes itself: leave out --proposals and --rpn, which are for Fast "
            "R-CNN"
        )


def _with_names_for_all(model: BaseDetector) -> dict[str, Any]:
    """Names for more classes than the checkpoint has: the others are called by their numbers."""
    names = tuple(model.dataset_meta["classes"])
    counts = [getattr(module, "num_classes", 0) for module in model.modules()]
    unnamed = range(len(names), max(count for count in counts if isinstance(count, int)))
    if not unnamed:
        return model.dataset_meta
    return {"classes": (*names, *(f"class {label}" for label in unnamed))}


def load_rpn(cfg: Config, checkpoint: str, device: str = "cpu") -> RPN:
    """`fpn_neck.mm.predictor.load_model` for an RPN.

    Raises:
        FileNotFoundError, ValueError: see there; the config is of another kind of model.
    """
    model = load_model(cfg, checkpoint, device, scope="mmdet")
    if not isinstance(model, RPN):
        kind = type_name(cfg.model)
        raise ValueError(f"model.type={kind!r}: proposals come from an RPN's config")
    return model


def proposals_of_file(file: str) -> ProposalSource:
    """Boxes from a proposals file, or from a JSON file ``{photo: [[x1, y1, x2, y2], ...]}``.

    A photo is looked up by folder name and file name; in a JSON file also by the path as the user
    gives it, and by the file name only.

    Raises:
        FileNotFoundError, ValueError: see `load_proposals`. A call raises ValueError for a photo
            without an entry, or with the entry of another photo of the same name.
    """
    proposals = load_proposals(file)
    is_json = Path(file).suffix == ".json"

    def boxes_of(path: Path) -> np.ndarray:
        key = photo_key(path)
        keys = [str(path), key, path.name] if is_json else [key]
        found = next((proposals[name] for name in keys if name in proposals), None)
        if found is None:
            raise ValueError(f"{file} has no entry for it, {' or '.join(dict.fromkeys(keys))}")
        if not matches_file_size(found, path):
            raise ValueError(f"{file} has the boxes of another photo of the name {key}")
        return found.boxes

    return boxes_of


def proposals_of_rpn(cfg: Config, checkpoint: str, device: str = "cpu") -> ProposalSource:
    """Boxes from a trained RPN, best first.

    Raises:
        FileNotFoundError, ValueError: see `load_rpn`.
    """
    rpn = PhotoModel(load_rpn(cfg, checkpoint, device), cfg, scope="mmdet")

    def boxes_of(path: Path) -> np.ndarray:
        sample, _ = rpn(path, img_id=0)
        return sample.pred_instances.bboxes.cpu().numpy()

    return boxes_of
