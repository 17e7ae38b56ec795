"""The neck, from C2..C5 to P2..P5: ours, mmdet's and torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from benchmarks.cases import CHANNELS, Case, randomize_affine
from benchmarks.measure import Skip
from fpn_neck import FPN
from fpn_neck.weights.conversion import convert

OUT_CHANNELS = 256


class NeckCase(Case):
    """C2..C5 -> P2..P5, 256 channels."""

    exported = "mmdet"

    def inputs(self) -> list[Tensor]:
        sizes = zip(CHANNELS[self.backbone], self.level_sizes(), strict=True)
        return [self.random(c, *size) for c, size in sizes]

    def ours(self) -> nn.Module:
        return randomize_affine(FPN(CHANNELS[self.backbone], OUT_CHANNELS))

    def others(self, ours: FPN) -> dict[str, Callable[[], nn.Module]]:
        return {"mmdet": lambda: _mmdet(ours), "torchvision": lambda: _torchvision(ours)}

    def work(self) -> dict[str, int]:
        totals = {"multiply_adds": 0, "bytes": 0}
        for x in self.inputs():
            pixels = x.numel() // x.shape[1]
            totals["multiply_adds"] += pixels * OUT_CHANNELS * (x.shape[1] + 9 * OUT_CHANNELS)
            totals["bytes"] += pixels * (x.shape[1] + OUT_CHANNELS) * x.element_size()
        return totals


def _mmdet(fpn: FPN) -> nn.Module:
    try:
        from mmdet.models.necks import FPN as MMDetFPN
    except ImportError as e:
        raise Skip(f"mmdet is not installed ({e})") from e
    theirs = MMDetFPN(fpn.in_channels, OUT_CHANNELS, len(fpn.in_channels))
    theirs.load_state_dict(fpn.state_dict())
    return theirs


class _TorchvisionFPN(nn.Module):
    def __init__(self, fpn: nn.Module) -> None:
        super().__init__()
        self.fpn = fpn

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())


def _torchvision(fpn: FPN) -> nn.Module:
    try:
        from torchvision.ops import FeaturePyramidNetwork
    except ImportError as e:
        raise Skip(f"torchvision is not installed ({e})") from e
    theirs = FeaturePyramidNetwork(fpn.in_channels, OUT_CHANNELS)
    state = convert(fpn.state_dict(), "mmdet", "torchvision").state_dict
    theirs.load_state_dict({k.removeprefix("backbone.fpn."): v for k, v in state.items()})
    return _TorchvisionFPN(theirs)
