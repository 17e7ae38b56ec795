"""Whole segmenters, from image to label map, and their training step: ours, mmseg's, smp's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import CHANNELS, Case, randomize_affine
from benchmarks.heads import TOWER_CHANNELS, head_multiply_adds, mmseg_head
from benchmarks.losses import IGNORE
from benchmarks.measure import Skip
from benchmarks.necks import NeckCase
from fpn_neck import CrossEntropyLoss, Segmenter
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.losses import PixelAccuracy


class SegmenterCase(Case):
    """Images -> the label of every pixel; in training mode, cross-entropy and pixel accuracy.

    smp's decoder has no 3x3 convolution on its pyramid: it computes less, and something else. With
    these weights 14 % of the pixels lie between cells of different labels, where `label_map` takes
    longer. On six clothing photos and with a trained segmenter, 5 to 12 % did.
    """

    exported = "mmseg"
    returns_loss = True
    not_compared = ("smp",)

    def __str__(self) -> str:
        return f"{super().__str__()}, K = {self.classes}"

    def inputs(self) -> list[Tensor]:
        return [self.random(3, self.height, self.width)]

    def ours(self) -> nn.Module:
        head = {"channels": TOWER_CHANNELS, "dropout": 0.0}
        torch.manual_seed(0)
        model = randomize_affine(Segmenter(self.backbone, self.classes, head=head))
        nn.init.normal_(model.head.conv_seg.weight)  # so that labels differ
        return _Ours(model, self)

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        return {
            "mmseg": lambda: _MMSeg(ours.model, self),
            "mmseg on our backbone": lambda: _MMSeg(ours.model, self, mmseg_wrapper=False),
            "smp": lambda: _Smp(self),
        }

    def work(self) -> dict[str, int]:
        """Of the neck and the head only."""
        neck = NeckCase(self.backbone, self.height, self.width, self.batch).work()
        head = self.batch * head_multiply_adds(self.level_sizes(), self.classes)
        image = self.batch * self.height * self.width
        return {"multiply_adds": neck["multiply_adds"] + head, "bytes": image * (3 * 4 + 8)}

    def truth(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch, self.height, self.width)
        labels = torch.randint(self.classes, shape, generator=generator)
        labels.masked_fill_(torch.rand(shape, generator=generator) < 0.05, IGNORE)
        return labels.to(self.device)


class _SegmenterModule(nn.Module):
    """Labels in evaluation mode, the loss in training mode."""

    def __init__(self, case: SegmenterCase) -> None:
        super().__init__()
        self.case = case

    @cached_property
    def truth(self) -> Tensor:
        return self.case.truth()

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [self.loss(images[0]) if self.training else self.labels(images[0])]

    def loss(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def labels(self, image: Tensor) -> Tensor:
        raise NotImplementedError


class _Ours(_SegmenterModule):
    def __init__(self, model: Segmenter, case: SegmenterCase) -> None:
        super().__init__(case)
        self.model = model

    def loss(self, image: Tensor) -> Tensor:
        model = self.model
        logits = model.head(model.neck(model.backbone(image)))
        return full_size_losses(logits, self.truth, [CrossEntropyLoss(), PixelAccuracy()])[0]

    def labels(self, image: Tensor) -> Tensor:
        return self.model.predict(image)


class _MMSeg(_SegmenterModule):
    """mmseg's backbone, neck, head, loss, resizing and argmax.

    mmseg's wrapper runs the timm model in the layout of the images. This package's wrapper runs it
    in channels_last on a CPU. ``mmseg_wrapper=False`` takes this package's, so that only neck and
    head differ.
    """

    def __init__(self, model: Segmenter, case: SegmenterCase, mmseg_wrapper: bool = True) -> None:
        super().__init__(case)
        self.head = mmseg_head(model.head)
        from mmengine.structures import PixelData
        from mmseg.models.necks import FPN
        from mmseg.structures import SegDataSample

        self.backbone = (
            _mmseg_backbone(case.backbone, model.backbone.net)
            if mmseg_wrapper
            else copy.deepcopy(model.backbone)
        )
        self.neck = FPN(
            list(CHANNELS[case.backbone]), model.neck.out_channels, len(model.neck.fpn_convs)
        )
        self.neck.load_state_dict(model.neck.state_dict())
        self.samples = [SegDataSample(gt_sem_seg=PixelData(data=t[None])) for t in case.truth()]

    def loss(self, image: Tensor) -> Tensor:
        return self.head.loss_by_feat(self._logits(image), self.samples)["loss_ce"]

    def labels(self, image: Tensor) -> Tensor:
        size = image.shape[-2:]
        return F.interpolate(self._logits(image), size, mode="bilinear").argmax(1)

    def _logits(self, image: Tensor) -> Tensor:
        return self.head(self.neck(tuple(self.backbone(image))))


def _mmseg_backbone(name: str, net: nn.Module) -> nn.Module:
    """mmseg's wrapper around the same timm model."""
    from mmseg.models.backbones import TIMMBackbone

    theirs = TIMMBackbone(name, pretrained=False, out_indices=net.feature_info.out_indices)
    theirs.timm_model.load_state_dict(net.state_dict())
    return theirs


class _Smp(_SegmenterModule):
    def __init__(self, case: SegmenterCase) -> None:
        super().__init__(case)
        try:
            from segmentation_models_pytorch import FPN
        except ImportError as e:
            raise Skip(f"segmentation_models_pytorch is not installed ({e})") from e
        options = {"encoder_weights": None, "classes": case.classes, "decoder_dropout": 0.0}
        self.model = FPN(f"tu-{case.backbone}", **options)

    def loss(self, image: Tensor) -> Tensor:
        logits = self.model(image)
        (logits.detach().argmax(1) == self.truth).float().mean()  # the others compute it too
        return F.cross_entropy(logits, self.truth, ignore_index=IGNORE)

    def labels(self, image: Tensor) -> Tensor:
        return self.model(image).argmax(1)
