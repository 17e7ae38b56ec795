"""Trained mmdet detectors on photos, also Fast R-CNN with precomputed proposals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.models import RPN
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config

from fpn_neck.mm.config.tta import use_tta
from fpn_neck.mm.det.config_proposals import loads_proposals
from fpn_neck.mm.det.proposals_file import load_proposals, matches_file_size, photo_key
from fpn_neck.mm.predictor import (
    PhotoModel,
    complete_names,
    load_model,
    photo_pipeline,
    without_augmentation,
)
from fpn_neck.utils.photos import name_of
from fpn_neck.utils.results.arrays import Segment
from fpn_neck.utils.results.options import SCORE_THR
from fpn_neck.utils.results.predictor import Photo, Predictor
from fpn_neck.utils.results.result import Result
from fpn_neck.utils.walk import type_name
from fpn_neck.weights.checkpoints import Checkpoint

# A photo -> boxes, float (n, 4), in its px.
ProposalSource = Callable[[Photo], np.ndarray]


class DetectionPredictor(Predictor):
    """A trained mmdet detector on photos: boxes, scores and masks, or panoptic segments.

    Args:
        cfg, checkpoint, device, allow_mismatch: see `fpn_neck.mm.predictor.load_model`.
        proposal_source: gives the boxes for a detector that has no RPN; None for all others.
        score_thr: objects with a lower score are neither drawn nor counted in areas.
        tta: test-time augmentation by the config's ``tta_model`` and ``tta_pipeline``.

    Attributes:
        cfg: the config that the model was built from.
        classes: names of the labels.

    Raises:
        FileNotFoundError, ValueError: see `fpn_neck.mm.predictor.load_model`; neither the
            checkpoint nor the config holds names of its labels; the detector needs
            a proposal source, or takes none; the config has no augmentation; a score_thr
            for a panoptic model.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Checkpoint,
        device: str = "auto",
        *,
        allow_mismatch: bool = False,
        proposal_source: ProposalSource | None = None,
        score_thr: float = SCORE_THR,
        tta: bool = False,
    ) -> None:
        _check_proposal_source(cfg, proposal_source)
        if tta:
            cfg = copy.deepcopy(cfg)
            use_tta(cfg)
        model = load_model(cfg, checkpoint, device, scope="mmdet", allow_mismatch=allow_mismatch)
        if score_thr != SCORE_THR and hasattr(without_augmentation(model), "panoptic_fusion_head"):
            raise ValueError(
                f"score_thr={score_thr}: segments of a panoptic model have no scores; it keeps "
                "objects by the config's model.test_cfg.rcnn.score_thr: set that"
            )
        is_rpn = isinstance(without_augmentation(model), RPN)
        if is_rpn:  # it tells objects from background, whatever the data set holds
            model.dataset_meta = {"classes": ("object",)}
        complete_names(model, cfg, checkpoint, "classes", scope="mmdet")
        if allow_mismatch and not is_rpn:
            model.dataset_meta = _with_names_for_all(model)
        self.cfg, self.score_thr = cfg, score_thr
        self._proposal_source = proposal_source
        self._model = PhotoModel(model, cfg, scope="mmdet")
        self.classes = tuple(model.dataset_meta["classes"])
        palette = model.dataset_meta.get("palette") or ()
        self._palette = () if isinstance(palette, str) else palette  # 'random'

    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        found = self._model(photos, self._fields)
        return [
            self._result(photo, sample.cpu(), image)
            for photo, (sample, image) in zip(photos, found, strict=True)
        ]

    def _fields(self, photo: Photo) -> dict[str, Any]:
        fields: dict[str, Any] = {"img_id": 0}
        if self._proposal_source is not None:
            fields["proposals"] = {"bboxes": self._proposal_source(photo)}
        return fields

    def _result(self, photo: Photo, sample: DetDataSample, image: np.ndarray) -> Result:
        common: dict[str, Any] = {
            "image": image,
            "classes": self.classes,
            "palette": self._palette,
            "photo": name_of(photo),
            "score_thr": self.score_thr,
        }
        if "pred_panoptic_seg" in sample:
            segments = sample.pred_panoptic_seg.sem_seg[0].numpy()
            return Result(**common, **_panoptic(segments, len(self.classes)))
        found = sample.pred_instances
        boxes = getattr(found.bboxes, "tensor", found.bboxes)
        return Result(
            **common,
            boxes=boxes.numpy().astype(np.float32).reshape(-1, 4),
            scores=found.scores.numpy().astype(np.float32),
            class_ids=found.labels.numpy().astype(np.int64),
            masks=found.masks.numpy().astype(bool) if "masks" in found else None,
        )


def _panoptic(values: np.ndarray, count: int) -> dict[str, Any]:
    """mmdet's class + instance * INSTANCE_OFFSET for every pixel -> labels and segments.

    Args:
        count: number of classes; it and higher classes mean none.
    """
    known, where, areas = np.unique(values, return_inverse=True, return_counts=True)
    numbers = np.zeros(len(known), np.int32)
    segments: list[Segment] = []
    for i, (value, area) in enumerate(zip(known.tolist(), areas.tolist(), strict=True)):
        if value % INSTANCE_OFFSET < count:
            numbers[i] = len(segments) + 1
            label, is_thing = value % INSTANCE_OFFSET, value >= INSTANCE_OFFSET
            segments.append(Segment(len(segments) + 1, label, is_thing, area))
    classes = np.minimum(known % INSTANCE_OFFSET, count).astype(np.min_scalar_type(count))
    where = where.reshape(values.shape)
    return {
        "labels": classes[where],
        "segments": tuple(segments),
        "segment_map": numbers[where],
    }


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


def load_rpn(cfg: Config, checkpoint: str, device: str = "auto") -> RPN:
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

    def boxes_of(path: Photo) -> np.ndarray:
        if not isinstance(path, Path):
            raise ValueError(f"{file} has boxes of photo files: give the path, not an array")
        key = photo_key(path)
        keys = [str(path), key, path.name] if is_json else [key]
        found = next((proposals[name] for name in keys if name in proposals), None)
        if found is None:
            raise ValueError(f"{file} has no entry for it, {' or '.join(dict.fromkeys(keys))}")
        if not matches_file_size(found, path):
            raise ValueError(f"{file} has the boxes of another photo of the name {key}")
        return found.boxes

    return boxes_of


def proposals_of_rpn(cfg: Config, checkpoint: str, device: str = "auto") -> ProposalSource:
    """Boxes from a trained RPN, best first.

    Raises:
        FileNotFoundError, ValueError: see `load_rpn`.
    """
    rpn = PhotoModel(load_rpn(cfg, checkpoint, device), cfg, scope="mmdet")

    def boxes_of(photo: Photo) -> np.ndarray:
        ((sample, _),) = rpn([photo], lambda photo: {"img_id": 0})
        return sample.pred_instances.bboxes.cpu().numpy()

    return boxes_of
