"""The neck, from C2..C5 to P2..P5: ours, mmdet's and torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import NamedTuple

from torch import Tensor, nn

from benchmarks.cases import CHANNELS, Case, randomize_affine
from benchmarks.contestants import OURS, PLAIN, build_contestants
from benchmarks.measure import Skip, run
from fpn_neck import FPN
from fpn_neck.weights.conversion import convert

LAYOUTS = {"contiguous": "", "channels_last": ", channels_last"}
# What --sweep measures if it is not told to measure less.
SIZES = ((64, 64), (160, 160), (256, 256), (320, 320), (512, 512), (800, 1216), (800, 1344))
WIDTHS, BATCHES = (32, 64, 128, 256, 512), (1, 4, 16)
MOST_RATIO = 1.03  # our time over torch's; above it, we are slower, and not by chance
TRIES = 3  # measurements, while a ratio is above it


@dataclass(frozen=True)
class NeckCase(Case):
    """C2..C5 -> P2..P5."""

    out_channels: int = 256

    exported = "mmdet"

    def inputs(self) -> list[Tensor]:
        sizes = zip(CHANNELS[self.backbone], self.level_sizes(), strict=True)
        return [self.random(c, *size) for c, size in sizes]

    def ours(self) -> nn.Module:
        return randomize_affine(FPN(CHANNELS[self.backbone], self.out_channels))

    def others(self, ours: FPN) -> dict[str, Callable[[], nn.Module]]:
        return {"mmdet": lambda: _mmdet(ours), "torchvision": lambda: _torchvision(ours)}

    def work(self) -> dict[str, int]:
        totals, width = {"multiply_adds": 0, "bytes": 0}, self.out_channels
        for x in self.inputs():
            pixels = x.numel() // x.shape[1]
            totals["multiply_adds"] += pixels * width * (x.shape[1] + 9 * width)
            totals["bytes"] += pixels * (x.shape[1] + width) * x.element_size()
        return totals


class Ratio(NamedTuple):
    """Our least time over that of torch's operators in the same layout."""

    size: tuple[int, int]
    width: int
    batch: int
    mode: str
    layout: str
    ours: float
    torchs: float

    @property
    def value(self) -> float:
        return self.ours / self.torchs

    @property
    def is_slower(self) -> bool:
        return self.value > MOST_RATIO

    def __str__(self) -> str:
        height, width = self.size
        where = f"{height}x{width} | {self.width} | {self.batch} | {self.mode} | {self.layout}"
        times = f"{1e3 * self.ours:.1f} | {1e3 * self.torchs:.1f} | {self.value:.2f}"
        return f"| {where} | {times} |"


SWEEP_HEAD = """| px | channels | batch | | layout | ours, ms | torch's, ms | ratio |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def sweep(
    sizes: Sequence[tuple[int, int]],
    widths: Sequence[int],
    batches: Sequence[int],
    modes: Sequence[str],
    rounds: int,
    clock: str,
) -> Iterator[Ratio]:
    """The neck on a ResNet-50's maps, with and without the fast paths, in both layouts.

    What seems slower is measured again, at most twice: small maps take a millisecond, and other
    programs disturb some of their calls.

    Args:
        sizes: of images. widths: channels of the pyramid.
        modes: 'forward', 'step'.
        rounds: measured calls of each, of which the fastest counts.
    """
    for (height, width), channels, batch in product(sizes, widths, batches):
        case = NeckCase("resnet50", height, width, batch, out_channels=channels)
        names = [name + suffix for name in (OURS, PLAIN) for suffix in LAYOUTS.values()]
        contestants, _ = build_contestants(case, lambda name, names=names: name in names)
        for mode in modes:
            least = dict.fromkeys(names, inf)
            for _ in range(TRIES):
                run(contestants, mode, rounds, clock)
                least = {c.name: min(least[c.name], *c.seconds[mode]) for c in contestants}
                where = (height, width), channels, batch, mode
                ratios = [
                    Ratio(*where, layout, least[OURS + suffix], least[PLAIN + suffix])
                    for layout, suffix in LAYOUTS.items()
                ]
                if not any(ratio.is_slower for ratio in ratios):
                    break
            yield from ratios


def _mmdet(fpn: FPN) -> nn.Module:
    try:
        from mmdet.models.necks import FPN as MMDetFPN
    except ImportError as e:
        raise Skip(f"mmdet is not installed ({e})") from e
    theirs = MMDetFPN(fpn.in_channels, fpn.out_channels, len(fpn.in_channels))
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
    theirs = FeaturePyramidNetwork(fpn.in_channels, fpn.out_channels)
    state = convert(fpn.state_dict(), "mmdet", "torchvision").state_dict
    theirs.load_state_dict({k.removeprefix("backbone.fpn."): v for k, v in state.items()})
    return _TorchvisionFPN(theirs)
