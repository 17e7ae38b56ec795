"""Numbers that training steps leave on their device, read once in a while by all processes."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_world_size
from torch import Tensor

_SECONDS = 2.0  # of training between two reads
_MOST = 50  # steps between two reads


@dataclass(order=True)
class BadStep:
    """The first value of a run that is not finite.

    Attributes:
        iteration: of the step, from 1 on.
        place: of the value among those of its step.
        process: in which it was found.
        name: what the value is.
        value: NaN or infinity.
        files: of the step's batch.
    """

    iteration: int
    place: int
    process: int = 0
    name: str = field(default="", compare=False)
    value: float = field(default=math.nan, compare=False)
    files: str = field(default="", compare=False)


@dataclass
class _Step:
    iteration: int
    losses: dict[str, Tensor] = field(default_factory=dict)
    checked: dict[str, Tensor] = field(default_factory=dict)
    files: str = ""


class StepValues:
    """Losses and norms of the last steps, which stay where they were computed until `read`.

    To read a number of a GPU, Python waits until the GPU has computed it, and the GPU then waits
    for Python's next step. One read for many steps makes this wait rare.

    Args:
        interval: steps between two reads. None: 1 for a single process on the CPU, where reading
            costs nothing; else as many as take 2 s, at most 50. All processes take the same number.

    Attributes:
        at_once: whether every step is checked before it changes the weights. None as interval does
            so on the CPU.
        last_read: iteration of the newest step that was read.
    """

    def __init__(self, interval: int | None = None) -> None:
        on_cpu = get_device() == "cpu"
        self.at_once = interval == 1 or interval is None and on_cpu
        self._interval = 1 if on_cpu and get_world_size() == 1 and not interval else interval
        self._next = self._interval or 1
        self._steps: list[_Step] = []
        self._begin = 0.0
        self.last_read = 0

    def __len__(self) -> int:
        """Number of steps that are not read yet."""
        return len(self._steps)

    @property
    def is_due(self) -> bool:
        """Whether it is time to read; the same in all processes."""
        return len(self) >= self._next

    def add(self, iteration: int, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the losses of a step.

        Returns:
            Those that are no tensors of one number.
        """
        step = self._step(iteration)
        others = {}
        for name, value in losses.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                step.losses[name] = _copy(value)
            else:
                others[name] = value
        return others

    def check(self, iteration: int, name: str, value: Tensor, files: str) -> None:
        """Keep a value of a step that must be finite.

        Args:
            name: in words.
            value: of one number.
            files: of the step's batch, for the error.
        """
        step = self._step(iteration)
        step.checked[name], step.files = _copy(value), files

    def first_bad(self) -> BadStep | None:
        """The first value of this process that is not finite, of the steps not yet read."""
        return _first_bad(self._steps)

    def read(self) -> tuple[list[dict[str, float]], BadStep | None]:
        """Read all steps since the last read; all processes must do so together.

        Returns:
            The losses of every step, means over the processes; and the first value of any process
            that is not finite.
        """
        steps, self._steps = self._steps, []
        bad = _first_bad(steps)
        losses = _losses(steps)  # after it, the steps are done and their time is known
        seconds = (time.monotonic() - self._begin) / max(1, len(steps))
        self.last_read = steps[-1].iteration if steps else self.last_read
        if get_world_size() == 1:
            found = [(losses, bad, seconds)]
        else:
            found = all_gather_object((losses, bad, seconds))
        slowest = max(own for _, _, own in found)
        self._next = self._interval or min(_MOST, max(1, int(_SECONDS / max(slowest, 1e-9))))
        means = [_means(of_step) for of_step in zip(*(own for own, _, _ in found), strict=True)]
        return means, _first(own for _, own, _ in found)

    def _step(self, iteration: int) -> _Step:
        if not self._steps:
            self._begin = time.monotonic()
        if not self._steps or self._steps[-1].iteration != iteration:
            self._steps.append(_Step(iteration))
        return self._steps[-1]


def _copy(value: Tensor) -> Tensor:
    """A CUDA graph, such as one of torch.compile, writes the next step's number in its place."""
    return value.detach().clone()


def _losses(steps: list[_Step]) -> list[dict[str, float]]:
    numbers = iter(_numbers([value for step in steps for value in step.losses.values()]))
    return [{name: next(numbers) for name in step.losses} for step in steps]


def _first_bad(steps: list[_Step]) -> BadStep | None:
    numbers = iter(_numbers([value for step in steps for value in step.checked.values()]))
    for step in steps:
        for place, name in enumerate(step.checked):
            value = next(numbers)
            if not math.isfinite(value):
                return BadStep(step.iteration, place, 0, name, value, step.files)
    return None


def _first(found: Iterable[BadStep | None]) -> BadStep | None:
    bad = [(step, process) for process, step in enumerate(found) if step]
    for step, process in bad:
        step.process = process
    return min((step for step, _ in bad), default=None)


def _numbers(values: list[Tensor]) -> list[float]:
    """One number of each tensor, with one copy from each device."""
    places: dict[torch.device, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        places[value.device].append(i)
    numbers = [0.0] * len(values)
    for indices in places.values():
        together = torch.cat([values[i].reshape(1) for i in indices])
        for i, number in zip(indices, together.tolist(), strict=True):
            numbers[i] = number
    return numbers


def _means(of_processes: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean of each loss over the processes that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for losses in of_processes:
        for name, value in losses.items():
            found[name].append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
