"""C2..C5 to logits as segmentation_models_pytorch does it: a pyramid without 3x3, and its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from benchmarks.cases import CHANNELS, shake
from benchmarks.heads import PYRAMID, WIDTH, head_multiply_adds
from benchmarks.measure import Skip
from benchmarks.necks import NeckCase
from fpn_neck import FPN, SegHead
from fpn_neck.weights.conversion import convert


class DecoderCase(NeckCase):
    """C2..C5 -> logits of stride 4; smp's corners are aligned."""

    exports = "smp"

    def __str__(self) -> str:
        return f"{super().__str__()}, K = {self.classes}"

    def ours(self) -> nn.Module:
        return shake(_Ours(CHANNELS[self.backbone], self.classes))

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        return {"smp": lambda: _smp(ours, CHANNELS[self.backbone], self.classes)}

    def work(self) -> dict[str, int]:
        sizes = self.level_sizes()
        laterals = sum(
            c * PYRAMID * h * w for c, (h, w) in zip(CHANNELS[self.backbone], sizes, strict=True)
        )
        maps = [*self.inputs(), self.random(self.classes, *sizes[0])]
        return {
            "multiply_adds": self.batch * (laterals + head_multiply_adds(sizes, self.classes)),
            "bytes": sum(x.nbytes for x in maps),
        }


class _Ours(nn.Module):
    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.neck = FPN(channels, PYRAMID, smooth="none")
        self.decode_head = SegHead(
            PYRAMID, classes, channels=WIDTH, dropout=0.0, align_corners=True
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.decode_head(self.neck(maps))]


class _Smp(nn.Module):
    def __init__(self, decoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.decoder, self.segmentation_head = decoder, nn.Sequential(nn.Conv2d(WIDTH, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.segmentation_head(self.decoder(list(maps)))]


def _smp(ours: nn.Module, channels: Sequence[int], classes: int) -> nn.Module:
    try:
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
    except ImportError as e:
        raise Skip(f"segmentation_models_pytorch is not installed ({e})") from e
    decoder = FPNDecoder([3, *channels], len(channels), PYRAMID, WIDTH, dropout=0.0)
    theirs = _Smp(decoder, classes)
    theirs.load_state_dict(convert(ours.state_dict(), "mmseg", "smp").state_dict)
    return theirs
