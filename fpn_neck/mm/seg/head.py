"""The segmentation head under mmseg's interface."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from fpn_neck.fast.memory_format import in_layout_of
from fpn_neck.mm.registry import MODELS
from fpn_neck.mm.sample_labels import check_sample, mmseg_classes
from fpn_neck.mm.seg.losses import (
    PixelLosses,
    check_one_logit,
    decode_losses,
    log_odds,
)
from fpn_neck.models.layers import Cfg
from fpn_neck.models.seg_head import MERGES, RELU, ScaleHeads
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.losses import PixelAccuracy
from fpn_neck.strips.pixel_loss import PixelLoss
from fpn_neck.utils.values import check_choice, check_whole, check_wholes

_ALL_LEVELS = "multiple_select"  # mmseg's name
MMSEGS_LOSS = {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}


@MODELS.register_module()
class FPNHead(BaseDecodeHead):
    """mmseg's decode head with `ScaleHeads`; arguments and state-dict keys of ``mmseg.FPNHead``.

    Args:
        feature_strides: stride of every level in image pixels, finest first.
        channels: width of the towers.
        merge: 'add' (mmseg's) or 'cat', see `ScaleHeads`.
        loss_stride: n; the loss is taken at every n-th pixel of every n-th row, with the logits
            resized to that grid, for 1 / (n * n) of the work and memory. 1 is mmseg's loss at full
            size. An odd n takes the centre of every cell, an even n a pixel half a px beside it.
        **kwargs: the rest of mmseg's ``BaseDecodeHead``: in_channels, in_index, num_classes,
            dropout_ratio, norm_cfg, align_corners, loss_decode, ignore_index, ... The default
            loss is mmseg's under any default scope.
    """

    def __init__(
        self,
        feature_strides: Sequence[int],
        channels: int,
        *,
        merge: str = "add",
        loss_stride: int = 1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = RELU,
        align_corners: bool = False,
        **kwargs: Any,
    ) -> None:
        check_whole("channels", channels, 1)
        levels = len(check_wholes("feature_strides", feature_strides, 1))
        for name in ("in_channels", "in_index"):
            if len(check_wholes(name, kwargs.get(name), 0)) != levels:
                raise ValueError(
                    f"{name}={kwargs[name]} and feature_strides={feature_strides} must be of the "
                    "same length, one entry per level"
                )
        if "num_classes" in kwargs:
            check_whole("num_classes", kwargs["num_classes"], 1)
        if kwargs.get("input_transform", _ALL_LEVELS) != _ALL_LEVELS:
            raise ValueError(
                f"input_transform={kwargs['input_transform']!r}: every level has its own tower; "
                "leave it out"
            )
        check_choice("merge", merge, MERGES)
        merged = channels * (levels if merge == "cat" else 1)
        kwargs |= {"input_transform": _ALL_LEVELS, "align_corners": align_corners}
        kwargs.setdefault("loss_decode", dict(MMSEGS_LOSS))
        layers: dict[str, Any] = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        super().__init__(channels=merged, **layers, **kwargs)
        check_one_logit(self, warnings.warn)
        self.feature_strides = feature_strides
        self._pixel_losses, self._accuracy = PixelLosses(), PixelAccuracy()
        self.loss_stride = check_whole("loss_stride", loss_stride, 1)
        self.scale_heads = ScaleHeads(
            self.in_channels,
            channels,
            strides=feature_strides,
            merge=merge,
            align_corners=align_corners,
            **layers,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Pyramid -> logits (N, K, H_0, W_0) at the finest stride."""
        inputs = self._transform_inputs(inputs)
        return in_layout_of(self.cls_seg(self.scale_heads(inputs)), inputs[0])

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """mmseg's losses and ``acc_seg``, if possible without the logits at the labels' size.

        It is possible without a sampler, and with mmseg's CrossEntropyLoss (mean; softmax, or
        sigmoid on one logit), `fpn_neck.DiceLoss` and `fpn_neck.CrossEntropyLoss`. Our losses take
        one logit z as the logits (0, z) of two classes.

        Raises:
            ValueError: a label is neither a class nor ignored; names the photo.
        """
        modules = decode_losses(self)
        losses = [
            loss for loss in self._pixel_losses(modules, self.out_channels == 1) if loss is not None
        ]
        if self.sampler is not None or len(losses) < len(modules):
            result = super().loss_by_feat(seg_logits, batch_data_samples)
            if self.out_channels == 1:  # mmseg's is the share of label 0
                result["acc_seg"] = self._by_strips(seg_logits, batch_data_samples, [])[-1][None]
            return result
        *values, accuracy = self._by_strips(seg_logits, batch_data_samples, losses)
        found: dict[str, Tensor] = {}  # losses of one name are added, as in mmseg
        for module, value in zip(modules, values, strict=True):
            previous = found.get(module.loss_name)
            found[module.loss_name] = value if previous is None else previous + value
        return found | {"acc_seg": accuracy[None]}

    def _by_strips(
        self, logits: Tensor, samples: list, losses: Sequence[PixelLoss]
    ) -> tuple[Tensor, ...]:
        """The losses, and the accuracy in percent."""
        labels = self._stack_batch_gt(samples).squeeze(1)
        for loss in losses:
            loss.to(logits.device)
        options: dict[str, Any] = dict(
            ignore_index=self.ignore_index, align_corners=self.align_corners
        )
        if self.out_channels > 1:
            *values, percent = full_size_losses(
                logits, labels, [*losses, self._accuracy], **options
            )
            return *values, percent.detach()
        pair = torch.cat((torch.zeros_like(logits), logits), 1)
        values = list(full_size_losses(pair, labels, losses, **options)) if losses else []
        with torch.no_grad():
            other = torch.full_like(logits, log_odds(self.threshold))
            pair = torch.cat((other, logits), 1)
            return *values, *full_size_losses(pair, labels, [self._accuracy], **options)

    def _stack_batch_gt(self, batch_data_samples: list) -> Tensor:
        """Labels (N, 1, H, W) on the grid on which the loss is taken."""
        for sample in batch_data_samples:
            labels = sample.gt_sem_seg.data
            # Elsewhere the loss checks them, without the photo's name.
            if not (labels.is_cuda or torch.compiler.is_compiling()):
                check_sample(sample, labels, mmseg_classes(self), self.ignore_index)
        n = self.loss_stride
        labels = super()._stack_batch_gt(batch_data_samples)[..., n // 2 :: n, n // 2 :: n]
        return labels.contiguous()  # mmseg's LovaszLoss takes a view of all labels
