"""What is measured: a function, its inputs, and the modules that compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bfloat16", "amp")  # 'amp': autocast to bfloat16
CHANNELS = {"resnet50": (256, 512, 1024, 2048), "tf_efficientnet_lite0": (24, 40, 112, 320)}
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Case:
    """Images of one size and one backbone.

    A subclass gives the inputs, this package's module, and the modules of other libraries with the
    same weights. A module maps a list of tensors to a list of tensors. If ``returns_loss``, it
    returns its loss in training mode.
    """

    backbone: str
    height: int
    width: int
    batch: int = 1
    precision: str = "float32"
    classes: int = 59
    device: str = "cpu"

    exported: ClassVar[str | None] = None  # module for ONNX Runtime and OpenVINO
    returns_loss: ClassVar[bool] = False
    has_backward: ClassVar[bool] = True
    not_compared: ClassVar[tuple[str, ...]] = ()  # names of modules that compute something else

    def __str__(self) -> str:
        return f"{self.backbone} {self.height}x{self.width}, batch {self.batch}, {self.precision}"

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and weights."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def arithmetic(self) -> str:
        """The roughest arithmetic in use: 'float32', 'tf32' or 'bfloat16'."""
        if self.precision != "float32":
            return "bfloat16"
        return "tf32" if self.device == "cuda" else "float32"

    def inputs(self) -> list[Tensor]:
        raise NotImplementedError

    def ours(self) -> nn.Module:
        raise NotImplementedError

    def others(self, ours: nn.Module) -> dict[str, Callable[[], nn.Module]]:
        """Name -> builder of a module with the weights of ``ours``.

        A builder raises `Skip` if its library is not installed.
        """
        raise NotImplementedError

    def work(self) -> dict[str, int]:
        """Multiply-adds of direct convolutions; bytes, each input and output moved once."""
        raise NotImplementedError

    def level_sizes(self) -> list[tuple[int, int]]:
        return [(-(-self.height // s), -(-self.width // s)) for s in STRIDES]

    def random(self, *shape: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (self.batch, *shape)
        return torch.randn(shape, generator=generator, device=self.device).to(self.dtype)


def randomize_affine(module: nn.Module) -> nn.Module:
    """The same module with random biases and scales: 0 and 1 would hide a missing one."""
    torch.manual_seed(0)
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.5)
        elif p.dim() == 1:
            nn.init.uniform_(p, 0.5, 1.5)
    return module
