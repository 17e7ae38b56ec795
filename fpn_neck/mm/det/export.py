"""mmdet's detectors for `fpn_neck.export.write.export`.

mmdet's own prediction branches by the number of boxes. `_OneStage` and `_TwoStage` compute the same
with operators whose sizes may be free: TopK, NonZero, NonMaxSuppression and RoiAlign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models import RPN, SingleStageDetector, StandardRoIHead, TwoStageDetector
from mmdet.models.dense_heads import RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from fpn_neck.export.graphs import Exportable, Outputs
from fpn_neck.mm.export import image_metadata, padded
from fpn_neck.mm.predictor import complete_names, load_model
from fpn_neck.weights.checkpoints import Checkpoint

_NMS = {"type", "iou_threshold", "class_agnostic", "split_thr"}
_REMEDY = "; --features exports its backbone and neck"


def exportable(cfg: Config, checkpoint: str | Checkpoint) -> Exportable:
    """A trained detector whole, for one image: boxes (n, 4), scores (n,), labels (n,), best first.

    Boxes are x1 y1 x2 y2 in px of the image. Mask R-CNN also gives masks (n, 28, 28), the
    probabilities inside of each box.

    Args:
        cfg, checkpoint: see `fpn_neck.mm.predictor.load_model`.

    Raises:
        FileNotFoundError, ValueError: see `load_model` and `image_metadata`; the detector predicts
            in a way that no operators are known for; names it.
    """
    model = load_model(cfg, checkpoint, "cpu", scope="mmdet")
    if isinstance(model, RPN):
        model.dataset_meta = {"classes": ("object",)}
    complete_names(model, cfg, checkpoint, "classes", scope="mmdet")
    metadata = replace(
        image_metadata(model, cfg, "detection"), classes=tuple(model.dataset_meta["classes"])
    )
    graph = _graph(model)
    names = ("boxes", "scores", "labels") + ("masks",) * graph.with_mask
    reference = partial(_reference, model, graph.with_mask)
    return Exportable(graph.eval(), reference, names, metadata, batch=False)


def _graph(model: Any) -> _OneStage | _TwoStage:
    kind: Any = type(model)
    if kind.predict is SingleStageDetector.predict:
        return _OneStage(model)
    if kind.predict is TwoStageDetector.predict and model.with_rpn:
        return _TwoStage(model)
    raise ValueError(f"{kind.__name__} predicts in its own way{_REMEDY}")


@torch.inference_mode()
def _reference(model: Any, with_mask: bool, images: Tensor) -> Outputs:
    """mmdet's own prediction; of masks, before mmdet pastes them into the photo."""
    size = tuple(images.shape[-2:])
    images = padded(images, model.data_preprocessor.pad_size_divisor)
    whole = tuple(images.shape[-2:])
    sample = DetDataSample(
        metainfo={
            "img_shape": size, "ori_shape": size, "pad_shape": whole, "batch_input_shape": whole,
            "scale_factor": (1.0, 1.0),
        }
    )  # fmt: skip
    if not with_mask:
        found = model.predict(images, [sample], rescale=False)[0].pred_instances
        return [found.bboxes, found.scores, found.labels.long()]
    maps, head = model.extract_feat(images), model.roi_head
    rois = model.rpn_head.predict(maps, [sample], rescale=False)
    (found,) = head.predict_bbox(maps, [sample.metainfo], rois, head.test_cfg, rescale=False)
    masks = head._mask_forward(maps, bbox2roi([found.bboxes]))["mask_preds"].sigmoid()
    masks = masks[range(len(masks)), 0 if head.mask_head.class_agnostic else found.labels]
    return [found.bboxes, found.scores, found.labels, masks]


# -------------------------------------------------------------------------------- the two families


class _OneStage(nn.Module):
    """A detector whose dense head predicts by `BaseDenseHead`, or an RPN."""

    with_mask = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        _check_dense_head(model.bbox_head)
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        size = images.shape[-2:]
        divisor = self.model.data_preprocessor.pad_size_divisor
        maps = self.model.extract_feat(padded(images, divisor))
        if isinstance(head, RPNHead):
            boxes, scores = _proposals(head, maps, size, head.test_cfg)
            return boxes, scores, torch.zeros_like(scores).long()
        return _dense_boxes(head, maps, size)


class _TwoStage(nn.Module):
    """An RPN, then a `StandardRoIHead`: Faster R-CNN, Mask R-CNN."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        _check_dense_head(model.rpn_head)
        _check_roi_head(model.roi_head)
        self.model, self.with_mask = model, bool(model.roi_head.with_mask)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, size = self.model, images.shape[-2:]
        maps = model.extract_feat(padded(images, model.data_preprocessor.pad_size_divisor))
        rois, _ = _proposals(model.rpn_head, maps, size, model.test_cfg.rpn)
        found = _roi_boxes(model.roi_head, maps, rois, size)
        return (*found, _masks(model.roi_head, maps, *found)) if self.with_mask else found


def _dense_boxes(head: Any, maps: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, ...]:
    """`BaseDenseHead._predict_by_feat_single` of mmdet 3.3."""
    cfg, (cls_scores, deltas, *factors) = head.test_cfg, head(maps)
    priors = _priors(head, cls_scores)
    parts: list[list[Tensor]] = []
    for level, prior in enumerate(priors):
        ranks = _ranks(head, cls_scores[level])  # (A, K)
        best, index = _top(ranks.flatten(), cfg.get("nms_pre", -1))
        best = _probabilities(head, best)
        anchors, labels = index // ranks.shape[1], index % ranks.shape[1]
        boxes = head.bbox_coder.decode(prior[anchors], _rows(deltas[level], 4)[anchors])
        # The threshold is of the score before the factor, such as FCOS's centerness.
        kept = best > cfg.get("score_thr", 0)
        if factors:
            best = best * _rows(factors[0][level], 1)[anchors, 0].sigmoid()
        parts.append([x[kept] for x in (boxes, best, labels)])
    boxes, scores, labels = (torch.cat(x) for x in zip(*parts, strict=True))
    boxes = _clip(boxes, size, head.bbox_coder)
    return _suppress(boxes, scores, labels, cfg)


def _proposals(
    head: Any, maps: Sequence[Tensor], size: Sequence[int], cfg: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """`RPNHead._predict_by_feat_single` of mmdet 3.3: boxes (n, 4) and scores (n,)."""
    cls_scores, deltas = head(maps)
    parts: list[list[Tensor]] = []
    for level, prior in enumerate(_priors(head, cls_scores)):
        best, index = _top(_ranks(head, cls_scores[level])[:, 0], cfg.get("nms_pre", -1))
        boxes = head.bbox_coder.decode(prior[index], _rows(deltas[level], 4)[index])
        parts.append([boxes, best, torch.full_like(index, level)])
    boxes, ranks, levels = (torch.cat(x) for x in zip(*parts, strict=True))
    boxes, scores = _clip(boxes, size, head.bbox_coder), _probabilities(head, ranks)
    if head.use_sigmoid_cls:  # above 0, below which ONNX's NMS may leave boxes out
        ranks = ranks.clamp(max=0).exp() + ranks.clamp(min=0)
    boxes, scores, _ = _suppress(boxes, scores, levels, cfg, ranks)
    return boxes, scores


def _roi_boxes(
    head: Any, maps: Sequence[Tensor], rois: Tensor, size: Sequence[int]
) -> tuple[Tensor, ...]:
    """`StandardRoIHead.predict_bbox` of mmdet 3.3."""
    box_head, cfg = head.bbox_head, head.test_cfg
    cls_score, deltas = box_head(_roi_maps(head.bbox_roi_extractor, maps, rois))[:2]
    scores = cls_score.softmax(-1)[:, :-1]  # the last one is the background
    classes = scores.shape[1]
    per_roi = 1 if box_head.reg_class_agnostic else classes
    anchors = rois[:, None].expand(-1, per_roi, 4).reshape(-1, 4)
    boxes = _clip(box_head.bbox_coder.decode(anchors, deltas.reshape(-1, 4)), size)
    boxes = boxes.reshape(-1, per_roi, 4).expand(-1, classes, 4).reshape(-1, 4)
    labels = torch.arange(classes).expand_as(scores).reshape(-1)
    scores = scores.reshape(-1)
    kept = scores > cfg.score_thr
    return _suppress(boxes[kept], scores[kept], labels[kept], cfg)


def _masks(
    head: Any, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
) -> Tensor:
    """`StandardRoIHead.predict_mask` of mmdet 3.3, without pasting: (n, h, w)."""
    logits = head.mask_head(_roi_maps(head.mask_roi_extractor, maps, boxes))
    if head.mask_head.class_agnostic:
        return logits[:, 0].sigmoid()
    return logits[torch.arange(labels.shape[0]), labels].sigmoid()


def _roi_maps(extractor: Any, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
    """`SingleRoIExtractor.forward` of mmdet 3.3: (n, C, h, w) in the order of the boxes (n, 4)."""
    layers = extractor.roi_layers
    rois = torch.cat((torch.zeros_like(rois[:, :1]), rois), dim=1)  # the image's number
    levels = extractor.map_roi_levels(rois, len(layers))
    order, parts = [], []
    for level, layer in enumerate(layers):
        index = (levels == level).nonzero()[:, 0]
        order.append(index)
        parts.append(
            roi_align(
                maps[level],
                rois[index],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
        )
    return torch.cat(parts)[torch.cat(order).argsort()]


# --------------------------------------------------------------------------------- the small steps


def _priors(head: Any, cls_scores: Sequence[Tensor]) -> list[Tensor]:
    sizes = [scores.shape[-2:] for scores in cls_scores]
    dtype, device = cls_scores[0].dtype, cls_scores[0].device
    return head.prior_generator.grid_priors(sizes, dtype=dtype, device=device)


def _rows(x: Tensor, width: int) -> Tensor:
    """A map (1, A * width, H, W) -> (H * W * A, width)."""
    return x[0].permute(1, 2, 0).reshape(-1, width)


def _ranks(head: Any, x: Tensor) -> Tensor:
    """(1, A * K, H, W) -> (H * W * A, K) without the background, in the order of the probabilities.

    They are logits where a sigmoid follows: ONNX Runtime's is 0 below -18, for all of them.
    """
    rows = _rows(x, head.cls_out_channels)
    return rows if head.use_sigmoid_cls else rows.softmax(-1)[:, :-1]


def _probabilities(head: Any, ranks: Tensor) -> Tensor:
    return ranks.sigmoid() if head.use_sigmoid_cls else ranks


def _top(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best ones (n,) and their places, as TopK: n is a number of the graph."""
    count: Any = torch.as_tensor(scores.shape[0])
    if most > 0:
        count = count.clamp(max=most)
    if not torch.jit.is_tracing():
        count = int(count)
    return scores.topk(count)


def _clip(boxes: Tensor, size: Sequence[int], coder: Any = None) -> Tensor:
    """Boxes (n, 4) inside of the image."""
    if not getattr(coder, "clip_border", True):
        return boxes
    height, width = (torch.as_tensor(n).to(boxes.dtype) for n in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height)))


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    cfg: Mapping[str, Any],
    ranks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """mmdet's end of every prediction: small boxes go, then NMS in groups, then the best ones.

    Args:
        ranks: numbers above 0 in the order of the scores; None: the scores.
    """
    ranks = scores if ranks is None else ranks
    least = cfg.get("min_bbox_size", -1)
    if least >= 0:
        kept = ((boxes[:, 2:] - boxes[:, :2]) > least).all(1)
        boxes, scores, groups, ranks = (x[kept] for x in (boxes, scores, groups, ranks))
    apart = boxes
    if not cfg["nms"].get("class_agnostic", False):  # groups far from each other, as mmcv does it
        step = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max() + 1
        apart = boxes + (groups.to(boxes.dtype) * step)[:, None]
    kept = nms(apart, ranks, cfg["nms"]["iou_threshold"])
    kept = kept[: cfg["max_per_img"]] if cfg.get("max_per_img", -1) > 0 else kept
    return boxes[kept], scores[kept], groups[kept]


# ------------------------------------------------------------------------------------- refusals


def _check_dense_head(head: Any) -> None:
    kind = type(head)
    base = RPNHead if isinstance(head, RPNHead) else BaseDenseHead
    own = [
        name
        for name in ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
        if getattr(kind, name) is not getattr(base, name)
    ]
    if own:
        raise ValueError(f"{kind.__name__} has its own {own[0]}{_REMEDY}")
    if getattr(head.loss_cls, "custom_cls_channels", False):
        raise ValueError(f"{kind.__name__}: the scores of {type(head.loss_cls).__name__}{_REMEDY}")
    _check_nms(head.test_cfg)


def _check_roi_head(head: Any) -> None:
    if type(head) is not StandardRoIHead:
        raise ValueError(f"{type(head).__name__} predicts in its own way{_REMEDY}")
    box_head = head.bbox_head
    if type(box_head).predict_by_feat is not BBoxHead.predict_by_feat or head.with_shared_head:
        raise ValueError(
            f"{type(box_head).__name__}, or a shared head, predicts in its own way{_REMEDY}"
        )
    _check_extractor(head.bbox_roi_extractor)
    if head.with_mask:
        mask_head = head.mask_head
        if type(mask_head) is not FCNMaskHead:
            raise ValueError(f"{type(mask_head).__name__} predicts in its own way{_REMEDY}")
        _check_extractor(head.mask_roi_extractor)
    _check_nms(head.test_cfg)


def _check_extractor(extractor: Any) -> None:
    if type(extractor) is not SingleRoIExtractor:
        raise ValueError(f"{type(extractor).__name__} takes boxes from several levels{_REMEDY}")
    if not all(
        isinstance(layer, RoIAlign) and layer.pool_mode == "avg" for layer in extractor.roi_layers
    ):
        raise ValueError(
            f"{extractor.roi_layers[0]}: only RoIAlign with pool_mode='avg' is ONNX's RoiAlign"
            f"{_REMEDY}"
        )


def _check_nms(cfg: Mapping[str, Any]) -> None:
    given = dict((cfg or {}).get("nms") or {})
    if given.get("type", "nms") != "nms" or set(given) - _NMS or "iou_threshold" not in given:
        raise ValueError(
            f"test_cfg.nms={given}: ONNX has NonMaxSuppression only, that is type='nms' with "
            f"iou_threshold{_REMEDY}"
        )
