"""The segmentation head under mmdet's interface: one pyramid for boxes and segments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmdet.models import seg_heads
from torch import Tensor, nn

from fpn_neck.fast.memory_format import in_layout_of
from fpn_neck.mm.registry import MODELS
from fpn_neck.mm.sample_labels import LabelRule, check_sample
from fpn_neck.models.layers import Cfg
from fpn_neck.models.seg_head import ScaleHeads
from fpn_neck.utils.values import check_whole

_FINEST_STRIDE = 4  # of the pyramid's level 0, as in mmdet


@MODELS.register_module()
class PanopticFPNHead(seg_heads.PanopticFPNHead):
    """mmdet's semantic head with `ScaleHeads`; arguments and keys of ``mmdet.PanopticFPNHead``.

    Loss and prediction are mmdet's (mmdet 3.3, ``seg_heads/panoptic_fpn_head.py``). They need the
    labels of things before those of stuff: with 80 things and 53 stuff labels, label 80 becomes
    logit 0 and every thing becomes logit 53. Unlike mmdet's head, this one takes images of any
    size, and too few levels are an error with a reason.

    Args:
        num_things_classes, num_stuff_classes: the head gives ``num_stuff_classes + 1`` logits.
        in_channels: channels of every level.
        inner_channels: width of the towers.
        start_level: 0, as in all of mmdet's configs. (With another level, mmdet's head gives
            logits of stride 4 and takes its loss on labels of a coarser stride.)
        end_level: number of levels used, of strides 4, 8, 16, ...
        conv_cfg, norm_cfg: see `fpn_neck.models.layers`; the default norm is GN with 32 groups.
        **kwargs: ``loss_seg`` and ``init_cfg``, see mmdet.

    Raises:
        TypeError, ValueError: an argument is out of its rule; the message names it.
    """

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        in_channels: int = 256,
        inner_channels: int = 128,
        start_level: int = 0,
        end_level: int = 4,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = {"type": "GN", "num_groups": 32},  # noqa: B006 (read only)
        **kwargs: Any,
    ) -> None:
        if start_level != 0:
            raise ValueError(f"start_level={start_level}: expected 0, the neck's finest level")
        check_whole("end_level", end_level, 1)
        # With end_level=0, mmdet builds no towers of its own.
        super().__init__(
            num_things_classes, num_stuff_classes, in_channels, inner_channels, 0, 0, **kwargs
        )
        self.end_level = self.num_stages = end_level
        towers = ScaleHeads(
            [in_channels] * end_level,
            inner_channels,
            strides=[_FINEST_STRIDE << level for level in range(end_level)],
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
        )
        for i, tower in enumerate(towers):
            towers[i] = _with_mmdets_keys(tower)
        self.conv_upsample_layers = towers

    def forward(self, x: Sequence[Tensor]) -> dict[str, Tensor]:
        """Classify every cell of stride 4.

        Args:
            x: the pyramid, at least ``end_level`` maps (N, in_channels, H_i, W_i), finest first.

        Returns:
            ``seg_preds``, logits (N, num_stuff_classes + 1, H, W), and ``seg_feats``, the merged
            map (N, inner_channels, H, W) behind them.

        Raises:
            ValueError: there are fewer than ``end_level`` levels.
        """
        if len(x) < self.end_level:
            raise ValueError(
                f"the head got {len(x)} levels and end_level={self.end_level}; raise the neck's "
                "num_outs, or lower end_level"
            )
        merged = self.conv_upsample_layers(x[: self.end_level])
        maps = {"seg_preds": self.conv_logits(merged), "seg_feats": merged}
        return {name: in_layout_of(m, x[0]) for name, m in maps.items()}

    @property
    def label_rule(self) -> LabelRule:
        """What a label may be."""
        ignored = getattr(self.loss_seg, "ignore_index", 255)
        return self.num_things_classes + self.num_stuff_classes, ignored

    def loss(self, x: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """mmdet's loss.

        Raises:
            ValueError: a label is neither a class nor ignored; names the sample's file.
        """
        for sample in batch_data_samples:
            check_sample(sample, sample.gt_sem_seg.sem_seg.long(), *self.label_rule)
        return super().loss(x, batch_data_samples)


def _with_mmdets_keys(tower: nn.Module) -> nn.Sequential:
    """The same tower with its convolutions under ``conv.0``, ``conv.1``, ...

    In mmdet's ``ConvUpsample``, upsampling is a function, which has no number.
    """
    layers = list(tower.children())
    names, convs = [], 0
    for layer in layers:
        is_conv = not isinstance(layer, nn.Upsample)
        names.append(str(convs) if is_conv else f"upsample{convs}")
        convs += is_conv
    conv = nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
    return nn.Sequential(OrderedDict(conv=conv))
