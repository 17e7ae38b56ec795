"""Whether an exported file gives what the model gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fpn_neck.export.graphs import Exportable
from fpn_neck.export.metadata import Metadata

TOLERANCE = 1e-4  # of the largest value of a tensor
ALIKE = 0.9999  # share of labels
_OTHERS = ((-0.25, 0.15), (0.3, -0.2), (-0.1, -0.35))  # what three more sizes differ by

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ParityError(Exception):
    """An exported file gives something else than the model."""


class Parity(NamedTuple):
    """What was compared.

    Attributes:
        sizes: (height, width) of the images.
        difference: the largest one of floats, as a share of the largest value; of labels, the share
            of pixels that differ.
        boxes: number of the detections that were compared, if the model is a detector.
    """

    sizes: list[tuple[int, int]]
    difference: float
    boxes: int

    def __str__(self) -> str:
        sizes = ", ".join(f"{height}x{width}" for height, width in self.sizes)
        return f"largest difference {self.difference:.1g} at {sizes}"


def compare(run: Run, made: Exportable, size: tuple[int, int], *, dynamic: bool) -> Parity:
    """Run the export and the model on pictures of random numbers.

    Args:
        run: the export: an input array -> its outputs.
        size: (height, width) in px of the export.
        dynamic: compare three more sizes, odd ones too, and batches of two.

    Raises:
        ParityError: a number differs by more than `TOLERANCE`, fewer than `ALIKE` of the labels
            are equal, or there is another number of boxes; names the size.
    """
    sizes = [size, *(_other(size, *by) for by in _OTHERS)] if dynamic else [size]
    largest, boxes = 0.0, 0
    for number, (height, width) in enumerate(sizes):
        batch = 2 if dynamic and made.batch and number % 2 else 1
        inputs = picture(made.metadata, batch, height, width, seed=number)
        with torch.inference_mode():
            expected = [x.numpy() for x in made.reference(inputs)]
        found = list(run(inputs.numpy()))
        try:
            if made.metadata.kind == "detection":
                found = _in_order_of(expected, found)
            for name, a, b in zip(made.outputs, found, expected, strict=True):
                largest = max(largest, _difference(name, a, b))
        except ParityError as e:
            raise ParityError(f"at {height}x{width} px: {e}") from None
        boxes += len(expected[0]) if made.metadata.kind == "detection" else 0
    return Parity(sizes, largest, boxes)


def _other(size: tuple[int, int], *by: float) -> tuple[int, int]:
    """About that much larger or smaller, and odd."""
    height, width = (max(33, round(n * (1 + share))) | 1 for n, share in zip(size, by, strict=True))
    return height, width


def picture(metadata: Metadata, batch: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """The model's input: large and small patches of random colours, as pixels or normalised."""
    random = np.random.default_rng(seed)

    def patches(side: int) -> np.ndarray:
        shape = batch, height // side + 1, width // side + 1, 3
        values = random.integers(0, 256, shape).repeat(side, 1).repeat(side, 2)
        return values[:, :height, :width]

    pixels = (0.6 * patches(32) + 0.3 * patches(8) + 0.1 * patches(1)).astype(np.uint8)
    if metadata.preprocess:
        return torch.from_numpy(pixels)
    mean, std = (np.array(x, np.float32) for x in (metadata.mean, metadata.std))
    images = (pixels - mean) / std
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32).copy())


def _in_order_of(expected: Sequence[np.ndarray], found: list[np.ndarray]) -> list[np.ndarray]:
    """Boxes, scores, labels, ... in the order of the model's: equal scores may come in any."""
    if len(found[0]) != len(expected[0]):
        raise ParityError(f"{len(found[0])} boxes, the model gives {len(expected[0])}")
    if not len(expected[0]):
        return found
    (boxes, scores, labels, *_), scale = expected, max(1.0, float(np.abs(expected[0]).max()))
    apart = np.abs(scores[:, None] - found[1]) + 9.0 * (labels[:, None] != found[2])
    for side in range(4):
        apart = np.maximum(apart, np.abs(boxes[:, None, side] - found[0][:, side]) / scale)
    lost = int((apart.min(0) > TOLERANCE).sum())
    if lost:
        raise ParityError(f"{lost} of {len(boxes)} boxes are not the model's")
    return [x[apart.argmin(1)] for x in found]


def _difference(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise ParityError(f"{name} has the shape {found.shape}, the model's {expected.shape}")
    if not expected.size:
        return 0.0
    if expected.dtype.kind != "f":
        other = float(np.mean(found != expected))
        if other > 1 - ALIKE:
            raise ParityError(f"{100 * other:.3g} % of {name} differ; at most 0.01 % may")
        return other
    scale = float(np.abs(expected).max()) or 1.0  # all are 0: the difference itself
    difference = float(np.abs(found - expected).max()) / scale
    if not difference <= TOLERANCE:  # NaN too
        raise ParityError(f"{name} differ by {difference:.2g} of their largest value")
    return difference
