"""Time, memory, and what the machine could do at most."""

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
    """Something that maps the inputs to the outputs.

    Attributes:
        run: forward without gradients.
        step: forward and backward; None where it cannot.
        error: see `field.check`; None where it computes something else.
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

    In turn, so that what else the machine does meets all of them alike; each right after a call
    of the same that does not count, since what the one before leaves behind (threads that still
    wait for work on the cores, another's data in the caches) would always meet the same one. The
    clock 'cpu' counts the processors' time of all threads: less disturbed by other programs, but
    blind to waiting.
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
    """Median, least, and the quartiles."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "least": min(seconds), "q25": low, "q75": high}


def peak_memory(call: Callable[[], object]) -> int | None:
    """Bytes that the process grew at most while ``call`` ran; None but on Linux.

    Outputs count; inputs and weights, which exist before, do not.
    """
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return None
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve this call unseen
    clear.write_text("5")  # the peak starts again from what is resident now
    before = _kilobytes(status, "VmRSS")
    result = call()
    after = _kilobytes(status, "VmHWM")
    del result
    return 1024 * (after - before)


def _kilobytes(status: Path, name: str) -> int:
    return next(int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith(name))


def rates(dtype: torch.dtype, clock: str) -> dict[str, float]:
    """This machine's own: multiply-adds per second of a large product, bytes per second copied."""
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
