"""What is measured: one function of some inputs, and who else offers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

CHANNELS = {"resnet50": (256, 512, 1024, 2048), "tf_efficientnet_lite0": (24, 40, 112, 320)}
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Case:
    """Images of one size on their way through one backbone.

    A subclass names the inputs, this package's module, and those of the others with the same
    weights. A module maps a list of tensors to a list of tensors; in training mode, if
    ``trains``, to its loss.
    """

    backbone: str
    height: int
    width: int
    batch: int = 1
    dtype: torch.dtype = torch.float32
    classes: int = 59

    exports: ClassVar[str | None] = None  # whose module is exported to other runtimes
    trains: ClassVar[bool] = False
    differs: ClassVar[tuple[str, ...]] = ()  # names of those that compute something else

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.backbone} {self.height}x{self.width}, batch {self.batch}, {dtype}"

    def inputs(self) -> list[Tensor]:
        raise NotImplementedError

    def ours(self) -> nn.Module:
        raise NotImplementedError

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        """Name -> builder of a module with the weights of ``ours``.

        A builder raises `Skip` where its library is not installed.
        """
        raise NotImplementedError

    def work(self) -> dict[str, int]:
        """Multiply-adds of direct convolutions; bytes, each input and output moved once."""
        raise NotImplementedError

    def level_sizes(self) -> list[tuple[int, int]]:
        return [(-(-self.height // s), -(-self.width // s)) for s in STRIDES]

    def random(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *shape, generator=generator).to(self.dtype)


def shake(module: nn.Module) -> nn.Module:
    """The same module with biases and scales that are not 0 and 1, so that each of them counts."""
    torch.manual_seed(0)
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.5)
        elif p.dim() == 1:
            nn.init.uniform_(p, 0.5, 1.5)
    return module
