"""The head of Semantic FPN on P2..P5: ours and mmseg's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from benchmarks.cases import STRIDES, Case, randomize_affine
from benchmarks.measure import Skip
from fpn_neck import SegHead

PYRAMID_CHANNELS, TOWER_CHANNELS = 256, 128
GN = {"type": "GN", "num_groups": 32}


class HeadCase(Case):
    """P2..P5 of 256 channels -> logits of stride 4; towers of 128 channels with GN."""

    exported = "mmseg"

    def __str__(self) -> str:
        return f"K = {self.classes}, {super().__str__().partition(' ')[2]}"

    def inputs(self) -> list[Tensor]:
        return [self.random(PYRAMID_CHANNELS, *size) for size in self.level_sizes()]

    def ours(self) -> nn.Module:
        return randomize_affine(
            SingleOutput(
                SegHead(PYRAMID_CHANNELS, self.classes, channels=TOWER_CHANNELS, dropout=0.0)
            )
        )

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        return {"mmseg": lambda: SingleOutput(mmseg_head(ours.module))}

    def work(self) -> dict[str, int]:
        return {
            "multiply_adds": self.batch * head_multiply_adds(self.level_sizes(), self.classes),
            "bytes": 4 * sum(x.numel() for x in self.inputs()),
        }


class SingleOutput(nn.Module):
    """A module that returns one map; here as a list."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.module(maps)]


def head_multiply_adds(sizes: Sequence[tuple[int, int]], classes: int) -> int:
    """Of the towers' convolutions, each at its size, and of the classifier at stride 4."""
    total = sizes[0][0] * sizes[0][1] * TOWER_CHANNELS * classes
    for level, (height, width) in enumerate(sizes):
        for i in range(max(1, level)):
            pixels = (height << i) * (width << i)
            total += pixels * 9 * TOWER_CHANNELS * (TOWER_CHANNELS if i else PYRAMID_CHANNELS)
    return total


def mmseg_head(head: SegHead) -> nn.Module:
    try:
        from mmengine.registry import DefaultScope
        from mmseg.models.decode_heads import FPNHead
    except ImportError as e:
        raise Skip(f"mmseg is not installed ({e})") from e
    with DefaultScope.overwrite_default_scope("mmseg"):  # the head builds its loss by name
        theirs = FPNHead(
            feature_strides=STRIDES,
            in_channels=[PYRAMID_CHANNELS] * len(STRIDES),
            in_index=list(range(len(STRIDES))),
            channels=TOWER_CHANNELS,
            num_classes=head.conv_seg.out_channels,
            dropout_ratio=0.0,
            norm_cfg=GN,
            align_corners=False,
            loss_decode={"type": "CrossEntropyLoss", "avg_non_ignore": True},
        )
    theirs.load_state_dict(head.state_dict())
    return theirs
