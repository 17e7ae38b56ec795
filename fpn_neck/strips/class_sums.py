"""`ClassSums` of resized logits, and their gradient, a strip at a time, by torch's operators.

The gradient has a closed form. For a pixel of label t with probabilities p, let a, b, d, e be the
derivatives of a scalar by ``log_p``, ``p``, ``all_p`` and ``all_log_p``. The derivative by the
pixel's logit of class k is::

    [k = t] (a_t + b_t p_t) + e_k + p_k (d_k - a_t - b_t p_t - sum_c d_c p_c - sum_c e_c)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fpn_neck.fast.cpu.threads import run_in_threads
from fpn_neck.fast.memory_format import compute_dtype
from fpn_neck.strips.labels import check_range
from fpn_neck.strips.pixel_loss import sum_by_label
from fpn_neck.strips.row_map import Resize, strip_bytes

Result = TypeVar("Result")


class Strip(NamedTuple):
    """Some rows start..end - 1 of some images."""

    images: slice
    start: int
    end: int


def strips_of(shape: Sequence[int], itemsize: int, device: torch.device) -> Iterator[Strip]:
    """All rows of a batch of maps (N, K, H, W): as many whole images as fit, or rows of one.

    Args:
        itemsize: bytes of a number.
    """
    n, classes, height, width = shape
    rows = max(1, strip_bytes(device) // (classes * width * itemsize))
    images, step = max(1, rows // height), min(rows, height)
    for image in range(0, max(1, n), images):  # a strip without pixels, if there is no image
        for start in range(0, height, step):
            yield Strip(slice(image, image + images), start, min(start + step, height))


class ResizedLogits:
    """Strips of resized logits and of labels.

    Args:
        logits: (N, K, h, w).
        target: labels (N, H, W), or ``ignore_index``.
    """

    def __init__(
        self, logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool
    ) -> None:
        self.logits, self.target, self.ignore_index = logits, target, ignore_index
        self.classes = logits.shape[1]
        self.dtype = compute_dtype(logits.dtype)
        self.resize = Resize(logits.shape[2:], target.shape[1:], align_corners)

    def strips(self) -> Iterator[Strip]:
        n, height, width = self.target.shape
        shape = n, self.classes, height, width
        return strips_of(shape, self.dtype.itemsize, self.logits.device)

    def for_each_strip(self, task: Callable[[Strip], Result]) -> Iterable[Result]:
        """The results in order; on a CPU each thread takes a strip."""
        if self.logits.device.type != "cpu":
            return map(task, self.strips())
        return run_in_threads(task, list(self.strips()))

    def cells(self, strip: Strip) -> tuple[slice, slice, slice]:
        """Index of a strip's cells in the logits."""
        return strip.images, slice(None), slice(*self.resize.span(strip.start, strip.end))

    def values(self, strip: Strip) -> Tensor:
        """(n, K, rows, W), float32, or float64 as the logits."""
        cells = self.logits[self.cells(strip)].to(self.dtype, copy=False)
        return self.resize.rows(cells.contiguous(), strip.start, strip.end)

    def labels(self, strip: Strip) -> tuple[Tensor, Tensor]:
        """Labels, 0 where they are ignored, and 1 or 0 for these, each (n, rows, W)."""
        target = self.target[strip.images, strip.start : strip.end]
        valid = target != self.ignore_index
        return target.where(valid, 0), valid.to(self.dtype)


def class_sums(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    align_corners: bool,
    reads: frozenset[str],
    lse: Tensor | None = None,
) -> Tensor:
    """See `fpn_neck.strips.operators.class_sums`; ``lse`` is filled, if it is given."""
    maps = ResizedLogits(logits, target, ignore_index, align_corners)

    def sums(strip: Strip) -> Tensor:
        labels, pixels = maps.labels(strip)
        check_range(labels, maps.classes, ignore_index)
        part = _Part(maps.values(strip), labels, pixels, reads)
        if lse is not None:
            lse[strip.images, strip.start : strip.end] = part.lse()
        return part.sums()

    total = logits.new_zeros((6, maps.classes), dtype=torch.float64)
    for part in maps.for_each_strip(sums):
        total += part
    return total


def class_sums_backward(
    derivatives: Tensor,
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    align_corners: bool,
    reads: frozenset[str],
) -> Tensor:
    """See `fpn_neck.strips.operators.class_sums_backward`."""
    maps = ResizedLogits(logits, target, ignore_index, align_corners)
    derivatives = derivatives.to(maps.dtype)

    def by_cell(strip: Strip) -> tuple[Strip, Tensor]:
        with torch.autocast(logits.device.type, enabled=False):  # backward may run under it
            p = maps.values(strip).softmax(1)
            by_pixel = _gradient(p, *maps.labels(strip), derivatives, reads)
        return strip, maps.resize.transposed(by_pixel, strip.start, strip.end)

    grad = torch.zeros_like(logits, dtype=maps.dtype)
    for strip, part in maps.for_each_strip(by_cell):  # in order: neighbours share a row of cells
        grad[maps.cells(strip)] += part
    return grad.to(logits.dtype)


class _Part:
    """`ClassSums` of one strip, in as few passes over its logits as can be."""

    def __init__(
        self, values: Tensor, labels: Tensor, pixels: Tensor, reads: frozenset[str]
    ) -> None:
        self.values, self.labels, self.pixels, self.reads = values, labels, pixels, reads
        self.p = values.softmax(1) if reads & {"p", "all_p"} else None
        self.log_p = values.log_softmax(1) if self.p is None or "all_log_p" in reads else None

    @cached_property
    def top(self) -> Tensor:
        """The largest logits, (n, rows, W)."""
        return self.values.amax(1)

    @cached_property
    def log_top_p(self) -> Tensor:
        """Logarithms of the largest probabilities, which are at least 1 / K."""
        if self.log_p is not None:
            return self.log_p.amax(1)
        assert self.p is not None
        return self.p.amax(1).log()

    @cached_property
    def own(self) -> Tensor:
        """The labels' logits."""
        return self._of_label(self.values)

    @cached_property
    def own_log_p(self) -> Tensor:
        """Logarithms of the labels' probabilities."""
        if self.log_p is None:
            return self.own - self.top + self.log_top_p
        return self._of_label(self.log_p)

    def lse(self) -> Tensor:
        return self.top - self.log_top_p

    def sums(self) -> Tensor:
        """(6, K), float64."""
        zeros = self.values.new_zeros(self.values.shape[1], dtype=torch.float64)
        makers: dict[str, Callable[[], Tensor]] = {
            "pixels": lambda: self._by_label(self.pixels),
            "log_p": lambda: self._by_label(self.own_log_p * self.pixels),
            "p": lambda: self._by_label(self.own_log_p.exp() * self.pixels),
            "correct": lambda: self._by_label(self._is_first() * self.pixels),
            "all_p": lambda: self._of_all(self.p),
            "all_log_p": lambda: self._of_all(self.log_p),
        }
        reads = {"pixels", *self.reads}
        return torch.stack([make() if name in reads else zeros for name, make in makers.items()])

    def _is_first(self) -> Tensor:
        """Whether the label's logit is the largest, and the first of equal ones."""
        if self.values.device.type != "cpu":
            return self.values.max(1).indices == self.labels
        # On a CPU, `max` with indices takes ten times as long as everything here.
        largest = torch.empty_like(self.values)  # ones and zeros: in a quarter of a bool's time
        torch.eq(self.values, self.top.unsqueeze(1), out=largest)
        if int(largest.sum(dtype=torch.float64)) > self.labels.numel():
            return self.values.max(1).indices == self.labels
        return self.own == self.top

    def _of_label(self, values: Tensor) -> Tensor:
        return values.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    def _by_label(self, values: Tensor) -> Tensor:
        return sum_by_label(values, self.labels, self.values.shape[1])

    def _of_all(self, values: Tensor | None) -> Tensor:
        """Sum of a map's classes; the map is spoilt, so this comes last."""
        assert values is not None
        return values.mul_(self.pixels.unsqueeze(1)).sum((0, 2, 3)).double()


def _gradient(
    p: Tensor, labels: Tensor, pixels: Tensor, derivatives: Tensor, reads: frozenset[str]
) -> Tensor:
    """Gradient of a strip's logits, (n, K, rows, W), in the memory of their probabilities."""
    _, by_log_p, by_p, _, by_all_p, by_all_log_p = derivatives
    labels = labels.unsqueeze(1)
    by_log_p = by_log_p if "log_p" in reads else torch.zeros_like(by_log_p)
    own = by_log_p.index_select(0, labels.flatten()).view(labels.shape)
    if "p" in reads:
        by_own = by_p.index_select(0, labels.flatten()).view(labels.shape)
        own.addcmul_(by_own, p.gather(1, labels))
    own *= pixels.unsqueeze(1)
    rest = -own
    if "all_p" in reads:
        mean = (by_all_p @ p.flatten(2)).view_as(pixels)
        rest.sub_((mean * pixels).unsqueeze(1))
    if "all_log_p" in reads:
        rest.sub_(by_all_log_p.sum() * pixels.unsqueeze(1))
    if "all_p" in reads:
        p *= torch.addcmul(rest, by_all_p.view(-1, 1, 1), pixels.unsqueeze(1))
    else:
        p *= rest
    if "all_log_p" in reads:
        p.addcmul_(by_all_log_p.view(-1, 1, 1), pixels.unsqueeze(1))
    return p.scatter_add_(1, labels, own)
