"""Time, memory, and the highest rates of this machine."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

Maps = Sequence[Tensor]


class Skip(Exception):
    """Why a contestant can't run here."""


@dataclass
class Contestant:
    """One way to compute the case's function.

    Attributes:
        run: forward without gradients.
        step: forward and backward; None if it has no backward.
        error: see `contestants.check`; None if it is not compared.
        seconds, peak: by mode, 'forward' or 'step'; ``peak`` in bytes.
    """

    name: str
    run: Callable[[], Maps]
    step: Callable[[], object] | None = None
    error: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int | None] = field(default_factory=dict)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def run(contestants: Sequence[Contestant], mode: str, rounds: int, clock: str) -> None:
    """Fill in the seconds and the peak memory of all that can run in ``mode``."""
    calls = {c.name: c.run if mode == "forward" else c.step for c in contestants}
    calls = {name: call for name, call in calls.items() if call is not None}
    seconds = interleave(calls, rounds, clock)
    for c in contestants:
        if c.name in calls:
            c.seconds[mode], c.peak[mode] = seconds[c.name], peak_memory(calls[c.name])


def interleave(
    calls: dict[str, Callable[[], object]], rounds: int, clock: str
) -> dict[str, list[float]]:
    """Seconds of every call, ``rounds`` of each, in turn, after two rounds of warm-up.

    The calls take turns, so that other programs on the machine disturb all of them alike. Every
    measured call follows an uncounted call of the same contestant. Otherwise one contestant would
    always pay for what its predecessor left behind: threads that still occupy the cores while they
    wait for work, and other data in the caches.

    The clock 'cpu' adds up the processor time of all threads. Other programs disturb it less, but
    it does not count waiting.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(-2, rounds):
        for name, call in calls.items():
            call()
            start = now()
            call()
            if i >= 0:
                seconds[name].append(now() - start)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum and quartiles."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "min": min(seconds), "q25": low, "q75": high}


def peak_memory(call: Callable[[], object]) -> int | None:
    """Largest growth of the process in bytes while ``call`` runs; None except on Linux.

    Outputs count; inputs and weights, which exist before the call, do not.
    """
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return None
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # a reused free block would not count
    clear.write_text("5")  # the peak starts again at the resident size
    before = _kilobytes(status, "VmRSS")
    result = call()
    after = _kilobytes(status, "VmHWM")
    del result
    return 1024 * (after - before)


def _kilobytes(status: Path, name: str) -> int:
    return next(int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith(name))


def rates(dtype: torch.dtype, clock: str) -> dict[str, float]:
    """Multiply-adds per second of a large matrix product, and bytes copied per second."""
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    source, target = torch.randn(2, 1 << 25)
    seconds = interleave({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 9, clock)
    return {
        "multiply_adds_per_s": 2048**3 / min(seconds["product"]),
        "bytes_per_s": 2 * source.nbytes / min(seconds["copy"]),
    }


def machine() -> dict[str, str | int]:
    """Processor, threads and versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "processor": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
