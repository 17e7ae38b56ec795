"""Bilinear resizing along one axis: which inputs make up every output, with which weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpn_neck.fast.cuda.axis import Axis, sum_equal_taps
from fpn_neck.fast.eligible import in_dispatch_mode

_REMEMBERED = 256  # taps of sizes, of crops and of strips
_BLOCK = 64  # outputs


def _remembered(make: Callable[..., Taps]) -> Callable[..., Taps]:
    """``make``, once for equal arguments; its tensors serve in and outside of inference mode."""
    cached = lru_cache(_REMEMBERED)(make)

    @wraps(make)
    def remembered(*args: Any) -> Taps:
        with torch.inference_mode(False):
            return make(*args) if in_dispatch_mode() else cached(*args)

    return remembered


class Block(NamedTuple):
    """Some outputs, the inputs that they are made of, and (outputs, inputs), the weights."""

    outputs: slice
    inputs: slice
    weights: Tensor


class Taps:
    """Output ``i`` is the sum over ``j`` of ``weights[i, j] * input[indices[i, j]]``.

    Taps do not change, and the functions that make them remember what they have made. So a training
    loop makes the taps of its sizes once, and a GPU gets a copy of them once.

    Attributes:
        inputs: number of inputs.
        indices: (outputs, S), int64, on the CPU: the S inputs of every output. They ascend
            along the outputs. One may stand twice.
        weights: (outputs, S), float64, on the CPU: of these inputs; not negative, with a sum of 1.
    """

    def __init__(self, inputs: int, indices: Tensor, weights: Tensor) -> None:
        self.inputs, self.indices, self.weights = inputs, indices, weights
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._axes: dict[torch.device, Axis] = {}
        self._blocks: dict[tuple[torch.device, torch.dtype], list[Block]] = {}

    def __len__(self) -> int:
        """Number of outputs."""
        return len(self.indices)

    @staticmethod
    def identity(size: int) -> Taps:
        """Every output is its input."""
        return _identity(size)

    @staticmethod
    def linear(size: int, target: int, align_corners: bool) -> Taps:
        """``size`` inputs -> ``target`` outputs, as in `torch.nn.functional.interpolate`."""
        return _linear(size, target, align_corners)

    def after(self, inner: Taps) -> Taps:
        """Taps among the inputs of ``inner``, whose outputs are the inputs of these."""
        return _after(self, inner)

    def part(self, start: int, end: int) -> Taps:
        """Only outputs start..end - 1."""
        return self if (start, end) == (0, len(self)) else _part(self, start, end)

    def moved(self, first: int, last: int) -> Taps:
        """The same outputs from the inputs first..last - 1."""
        return self if (first, last) == (0, self.inputs) else _moved(self, first, last)

    def span(self) -> tuple[int, int]:
        """The first input in use and the one after the last."""
        return int(self.indices[0].min()), int(self.indices[-1].max()) + 1

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Indices, int64, and weights, each (outputs, S); dtype and device of a tensor."""
        key = like.device, like.dtype
        if key not in self._copies:
            with torch.inference_mode(False):
                copies = self.indices.to(like.device), self.weights.to(like)
            if in_dispatch_mode():
                return copies
            self._copies[key] = copies
        return self._copies[key]

    def axis(self, device: torch.device) -> Axis:
        """As the kernels of a GPU take them."""
        if device not in self._axes:
            with torch.inference_mode(False):
                inputs = torch.arange(self.inputs, device="cpu")
                start = torch.searchsorted(self.indices.amax(1), inputs)
                end = torch.searchsorted(self.indices.amin(1), inputs, right=True)
                users = torch.stack((start, end.maximum(start)), 1)
                indices, weights = self.indices, self.weights
                if indices.shape[1] > 2:  # mostly fewer inputs
                    indices, weights = sum_equal_taps(indices, weights)
                axis = Axis(
                    indices.to(device, torch.int32),
                    weights.to(device, torch.float32),
                    users.to(device, torch.int32),
                )
            if in_dispatch_mode():
                return axis
            self._axes[device] = axis
        return self._axes[device]

    def blocks(self, like: Tensor) -> list[Block]:
        """Small matrices that together are `matrix`; dtype and device of a tensor.

        A matrix product with each of them takes a few multiplications for every output, and less
        time than anything else on a CPU.
        """
        key = like.device, like.dtype
        if key not in self._blocks:
            blocks = []
            for start in range(0, len(self), _BLOCK):
                end = min(start + _BLOCK, len(self))
                part = self.part(start, end)
                first, last = part.span()
                matrix = part.moved(first, last).matrix(like)
                blocks.append(Block(slice(start, end), slice(first, last), matrix))
            if in_dispatch_mode():
                return blocks
            self._blocks[key] = blocks
        return self._blocks[key]

    def matrix(self, like: Tensor) -> Tensor:
        """(outputs, inputs), weights of every input in every output; dtype and device of a tensor.

        It is not kept: at the size of a photo it is large.
        """
        indices, weights = self.tensors(like)
        return like.new_zeros(len(self), self.inputs).scatter_add_(1, indices, weights)


def _taps(inputs: int, indices: Tensor, weights: Tensor) -> Taps:
    return Taps(inputs, indices.contiguous(), weights.contiguous())


@_remembered
def _identity(size: int) -> Taps:
    indices = torch.arange(size, device="cpu").unsqueeze(1)
    return _taps(size, indices, torch.ones(size, 1, dtype=torch.float64, device="cpu"))


@_remembered
def _linear(size: int, target: int, align_corners: bool) -> Taps:
    if align_corners:
        scale, shift = (size - 1) / max(target - 1, 1), 0.0
    else:
        scale, shift = size / target, 0.5 * size / target - 0.5
    positions = torch.arange(target, dtype=torch.float64, device="cpu") * scale + shift
    positions = positions.clamp_(0, size - 1)
    first = positions.floor()
    second = positions - first  # the weight of the second input
    indices = torch.stack((first, first + (second > 0)), 1).long()
    return _taps(size, indices, torch.stack((1 - second, second), 1))


@_remembered
def _after(outer: Taps, inner: Taps) -> Taps:
    indices = inner.indices[outer.indices].flatten(1)
    weights = (outer.weights.unsqueeze(2) * inner.weights[outer.indices]).flatten(1)
    return _taps(inner.inputs, indices, weights)


@_remembered
def _part(taps: Taps, start: int, end: int) -> Taps:
    return _taps(taps.inputs, taps.indices[start:end], taps.weights[start:end])


@_remembered
def _moved(taps: Taps, first: int, last: int) -> Taps:
    return _taps(last - first, taps.indices - first, taps.weights)
