"""Results for the package supervision, which draws, counts, tracks and converts them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpn_neck.utils.results.arrays import Arrays


def to_supervision(result: Arrays) -> Any:
    """See `fpn_neck.utils.results.result.Result.to_supervision`."""
    try:
        import supervision
    except ImportError as e:
        raise ImportError("to_supervision() needs supervision: pip install supervision") from e
    boxes, masks, scores, ids = result.boxes, result.masks, result.scores, result.class_ids
    if result.segments is not None and result.segment_map is not None:
        ids = np.array([one.class_id for one in result.segments], int)
        masks = _masks(result.segment_map, [one.number for one in result.segments])
    elif result.labels is not None:
        ids = np.array([i for i, name in enumerate(result.classes) if name in result.areas], int)
        masks = _masks(result.labels, ids.tolist())
    if boxes is None and masks is not None:
        boxes = supervision.mask_to_xyxy(masks).astype(np.float32)
    assert boxes is not None and ids is not None
    names = np.array([result.classes[i] for i in ids.tolist()])
    return supervision.Detections(
        xyxy=boxes, mask=masks, confidence=scores, class_id=ids, data={"class_name": names}
    )


def _masks(labels: np.ndarray, values: list[int]) -> np.ndarray:
    return np.stack([labels == value for value in values]) if values else np.zeros((0, 1, 1), bool)
