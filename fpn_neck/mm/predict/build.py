"""The predictor of a checkpoint of mmseg or mmdet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from fpn_neck.mm.config.in_checkpoint import read_trained
from fpn_neck.mm.config.sections import require_photos
from fpn_neck.mm.config.types import FRAMEWORKS, framework
from fpn_neck.utils.results.options import SCORE_THR
from fpn_neck.utils.results.predictor import Predictor

if TYPE_CHECKING:
    from fpn_neck.mm.det.predictor import ProposalSource


def build_predictor(
    checkpoint: str | Path,
    config: str | Path | Config | None = None,
    device: str = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    allow_mismatch: bool = False,
    proposals: Callable[[], ProposalSource] | None = None,
    score_thr: float = SCORE_THR,
    tta: bool = False,
) -> Predictor:
    """A predictor of mmseg's or mmdet's, by the config's framework.

    Args:
        checkpoint, config, options: see `fpn_neck.mm.config.in_checkpoint.read_trained`.
        device, allow_mismatch, score_thr, tta: see `fpn_neck.mm.det.predictor`.
        proposals: makes the source of the boxes of a detector without an RPN.

    Raises:
        FileNotFoundError, ValueError: see `read_trained`; the config is of another framework, and
            see the predictors.
    """
    cfg, read = read_trained(checkpoint, config, options)
    require_photos(cfg)
    scope = framework(cfg)
    if scope not in FRAMEWORKS:
        name = config if isinstance(config, (str, Path)) else checkpoint
        raise ValueError(f"{name}: default_scope is {scope!r}, expected 'mmseg' or 'mmdet'")
    if scope == "mmseg":
        if proposals:
            raise ValueError("--proposals and --rpn are for an mmdet config of Fast R-CNN")
        from fpn_neck.mm.seg.predictor import SegmentationPredictor

        return SegmentationPredictor(cfg, read, device, allow_mismatch=allow_mismatch, tta=tta)
    from fpn_neck.mm.det.predictor import DetectionPredictor

    return DetectionPredictor(
        cfg,
        read,
        device,
        allow_mismatch=allow_mismatch,
        proposal_source=proposals() if proposals else None,
        score_thr=score_thr,
        tta=tta,
    )
