"""From logits of stride 4 to a label map of the photo's size: ours, and resizing with argmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import STRIDES, Case
from fpn_neck.strips.label_map import label_map

REGION_SIDE = 24  # cells, about


class LabelsCase(Case):
    """Logits -> labels; the backbone is not used.

    The largest logits form regions: 15 to 18 % of the pixels lie between cells of different labels.
    """

    exported = "mmseg"
    has_backward = False

    def __str__(self) -> str:
        return f"K = {self.classes}, {super().__str__().partition(' ')[2]}"

    def inputs(self) -> list[Tensor]:
        size = self.level_sizes()[0]
        regions = self.random(self.classes, *(ceil(s / REGION_SIDE) for s in size)).float()
        return [F.interpolate(regions, size=size, mode="bicubic").to(self.dtype)]

    def ours(self) -> nn.Module:
        return _Labels(self, label_map)

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        return {"mmseg": lambda: _Labels(self, _resize_and_argmax)}

    def work(self) -> dict[str, int]:
        """A resized logit is the weighted sum of four."""
        pixels = self.batch * self.height * self.width
        cells = pixels // STRIDES[0] ** 2
        return {
            "multiply_adds": 4 * self.classes * pixels,
            "bytes": 4 * self.classes * cells + 8 * pixels,
        }


class _Labels(nn.Module):
    def __init__(self, case: LabelsCase, to_labels: Callable[[Tensor, tuple[int, int]], Tensor]):
        super().__init__()
        self.size, self.to_labels = (case.height, case.width), to_labels

    def forward(self, logits: Sequence[Tensor]) -> list[Tensor]:
        return [self.to_labels(logits[0], self.size)]


def _resize_and_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """What mmseg does (mmseg 1.2, ``models/segmentors``)."""
    return F.interpolate(logits, size, mode="bilinear").argmax(1)
