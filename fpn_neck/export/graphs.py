"""Whole models as modules that an export takes: pixels or images in, tensors out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fpn_neck.export.metadata import Metadata
from fpn_neck.models.segmenter import Segmenter
from fpn_neck.utils.results.options import BACKGROUND
from fpn_neck.utils.sizes import resize

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Exportable:
    """A model, how it is exported, and what its export must equal.

    Attributes:
        graph: normalised images (N, 3, H, W) -> a tensor, or a sequence of them.
        reference: the same by the framework's own code, which the export is compared with.
        outputs: the names of the tensors.
        metadata: see there; ``preprocess`` and ``labels`` are set by `with_preprocessing` and by
            the function that makes the graph.
        batch: whether N is free; else it is 1.
    """

    graph: nn.Module
    reference: Callable[[Tensor], Outputs]
    outputs: tuple[str, ...]
    metadata: Metadata
    batch: bool = True

    def with_preprocessing(self) -> Exportable:
        """The same model on uint8 pixels (N, H, W, 3), RGB."""
        normalise, reference = Normalise(self.metadata), self.reference
        return replace(
            self,
            graph=nn.Sequential(normalise, self.graph).eval(),
            reference=lambda pixels: reference(normalise(pixels)),
            metadata=replace(self.metadata, preprocess=True),
        )


class Normalise(nn.Module):
    """Pixels uint8 (N, H, W, 3), RGB -> images (N, 3, H, W), float32, as the model takes them."""

    mean: Tensor
    std: Tensor

    def __init__(self, metadata: Metadata) -> None:
        super().__init__()
        self.bgr = metadata.channels == "BGR"
        for name in ("mean", "std"):
            values = torch.tensor(getattr(metadata, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2)
        if self.bgr:
            images = torch.cat(images.split(1, dim=1)[::-1], dim=1)
        return (images.float() - self.mean) / self.std


class Labels(nn.Module):
    """Logits (N, K, H, W) of a module -> labels (N, H, W), int64.

    Args:
        threshold: of the probability of label 1, if K is 1.
    """

    def __init__(self, logits: nn.Module, threshold: float = 0.5) -> None:
        super().__init__()
        self.logits, self.threshold = logits, threshold

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        if logits.shape[1] > 1:
            return logits.argmax(1)
        return (logits[:, 0].sigmoid() > self.threshold).long()


class FullSize(nn.Module):
    """Logits (N, K, h, w) of a module -> (N, K, H, W), at the size of the images."""

    def __init__(self, logits: nn.Module, align_corners: bool) -> None:
        super().__init__()
        self.logits, self.align_corners = logits, align_corners

    def forward(self, images: Tensor) -> Tensor:
        return resize(self.logits(images), images.shape[-2:], self.align_corners)


class _Detections(nn.Module):
    """torchvision's detector for one image (1, 3, H, W) -> its tensors in the order of names."""

    def __init__(self, detector: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.detector, self.names = detector, names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.detector([images[0]])[0]
        return tuple(found[name] for name in self.names)


def segmenter(
    model: Segmenter, metadata: Metadata | None = None, *, labels: bool = False
) -> Exportable:
    """A `Segmenter` whole: logits or labels at the images' size.

    Args:
        metadata: None, and classes that are (): what the model's ``facts`` say.

    Raises:
        ValueError: the metadata name another number of classes.
    """
    model = copy.deepcopy(model).eval()
    metadata = metadata or Metadata("segmentation", **asdict(model.facts))
    if not metadata.classes:
        metadata = replace(metadata, classes=model.facts.classes)
    _check_names(metadata.classes, len(model.facts.classes))
    metadata = replace(
        metadata,
        kind="segmentation",
        labels=labels,
        align_corners=model.head.scale_heads.align_corners,
    )
    if not labels:
        return Exportable(model, lambda x: [model(x)], ("logits",), metadata)
    return Exportable(Labels(model).eval(), lambda x: [model.predict(x)], ("labels",), metadata)


def features(model: Any, metadata: Metadata | None = None) -> Exportable:
    """A backbone with its neck, such as `PyramidBackbone`: maps "p2", "p3", ..., finest first.

    Args:
        model: a module; its ``out_channels`` has one number for each map.
    """
    model = copy.deepcopy(model).eval()
    names = tuple(f"p{i}" for i in range(2, 2 + len(model.out_channels)))
    metadata = replace(metadata or Metadata("features"), kind="features")
    return Exportable(model, lambda x: list(model(x)), names, metadata)


def torchvision_detector(model: nn.Module, classes: Sequence[str]) -> Exportable:
    """A detector of torchvision whole, for one image (1, 3, H, W) with values 0 to 1.

    Its boxes are in px of that image. Photos are resized before, by ``metadata.fit``: inside of a
    file torchvision rounds sizes in float32, which makes some images smaller by a pixel.

    Args:
        classes: names of the labels 0, 1, ...; label 0 is the background, whatever its name.

    Raises:
        ValueError: the model has another number of labels.
    """
    model = copy.deepcopy(model).eval()
    _check_names(classes, _count_labels(model))
    transform: Any = model.transform
    rule: dict[str, Any] = {"fit": (float(transform.max_size), float(transform.min_size[-1]))}
    if transform.fixed_size:  # (width, height)
        rule = {"exact": tuple(transform.fixed_size)}
    transform.resize = lambda image, target=None: (image, target)
    names: tuple[str, ...] = ("boxes", "scores", "labels")
    heads: Any = getattr(model, "roi_heads", None)
    if heads is not None and heads.has_mask():
        names += ("masks",)
    graph = _Detections(model, names).eval()
    names_of = (BACKGROUND, *classes[1:])
    metadata = Metadata("detection", std=(255.0,) * 3, classes=names_of, **rule)
    return Exportable(graph, graph, names, metadata, batch=False)


def _check_names(classes: Sequence[str], labels: int | None) -> None:
    if labels is not None and len(classes) != labels:
        raise ValueError(f"classes={tuple(classes)}: the model has {labels} labels, one name each")


def _count_labels(detector: Any) -> int | None:
    """Labels of a detector, with the background; None if it does not say."""
    heads = getattr(detector, "roi_heads", None)
    if heads is not None:
        score: Any = getattr(heads.box_predictor, "cls_score", None)
        return getattr(score, "out_features", None)
    head: Any = getattr(getattr(detector, "head", None), "classification_head", None)
    return getattr(head, "num_classes", None)
