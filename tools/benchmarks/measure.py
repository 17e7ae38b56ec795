"""Time, memory, and the highest rates of this machine."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from subprocess import Popen

import torch
from torch import Tensor

from fpn_neck.fast.cuda import available as kernels_are_available

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
        arithmetic: its own, if it rounds more than the case, see `Case.arithmetic`; also 'int8'.
        has_peak: whether a call allocates its memory; a CUDA graph has allocated it before.
        seconds, peak: by mode, 'forward' or 'step'; ``peak`` in bytes.
    """

    name: str
    run: Callable[[], Maps]
    step: Callable[[], object] | None = None
    error: float | None = None
    arithmetic: str | None = None
    has_peak: bool = True
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int | None] = field(default_factory=dict)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GPU_CLOCK = "cuda"


def run(
    contestants: Sequence[Contestant], mode: str, rounds: int, clock: str, *, keep_going=False
) -> list[str]:
    """Fill in the seconds and the peak memory of all that can run in ``mode``.

    Args:
        clock: a name in `CLOCKS`, or `GPU_CLOCK` for work on a GPU.
        keep_going: leave out a contestant that fails.

    Returns:
        Why contestants were left out.
    """
    calls = {c.name: c.run if mode == "forward" else c.step for c in contestants}
    calls = {name: call for name, call in calls.items() if call is not None}
    missing = []
    for name, call in list(calls.items()) if keep_going else []:
        try:
            call()
        except Exception as e:  # of any type: the others go on
            missing.append(f"{name}: {mode} FAILED, {type(e).__name__}: {str(e).strip()[:300]}")
            del calls[name]
    seconds = interleave(calls, rounds, clock)
    peak = peak_memory if clock != GPU_CLOCK else peak_gpu_memory
    gc.collect()
    gc.freeze()  # collecting among the objects of all libraries takes most of a second, each time
    for c in contestants:
        if c.name in calls:
            c.seconds[mode] = seconds[c.name]
            c.peak[mode] = peak(calls[c.name]) if c.has_peak else None
    gc.unfreeze()
    return missing


def interleave(
    calls: dict[str, Callable[[], object]], rounds: int, clock: str
) -> dict[str, list[float]]:
    """Seconds of every call, ``rounds`` of each, in turn, after two rounds of warm-up.

    The calls take turns, so that other programs on the machine disturb all of them alike. Every
    measured call follows an uncounted call of the same contestant. Otherwise one contestant would
    always pay for what its predecessor left behind: threads that still occupy the cores while they
    wait for work, and other data in the caches.

    The clock 'cpu' adds up the processor time of all threads. Other programs disturb it less, but
    it does not count waiting. On a GPU, events measure from an idle GPU to the end of its work:
    what Python takes before the kernels begin counts too.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(-2, rounds):
        for name, call in calls.items():
            call()
            took = seconds_on_gpu(call) if clock == GPU_CLOCK else seconds_of(call, CLOCKS[clock])
            if i >= 0:
                seconds[name].append(took)
    return seconds


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many other programs meanwhile, each of which keeps a core busy."""
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    programs = [Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def seconds_of(call: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    call()
    return now() - start


def seconds_on_gpu(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, the least and the most."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    ends = {"min": min(seconds), "max": max(seconds)}
    return {"median": median, "q25": low, "q75": high} | ends


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


def peak_gpu_memory(call: Callable[[], object]) -> int:
    """Largest growth of torch's memory on the GPU in bytes; outputs count, inputs do not."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before


def _kilobytes(status: Path, name: str) -> int:
    return next(int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith(name))


@cache
def rates(dtype: torch.dtype, clock: str, rounds: int = 9) -> dict[str, float]:
    """Multiply-adds per second of a large matrix product, and bytes copied per second."""
    on_gpu = clock == GPU_CLOCK
    device, side, length = ("cuda", 8192, 1 << 28) if on_gpu else ("cpu", 2048, 1 << 25)
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    source, target = torch.randn(2, length, device=device)
    calls = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    seconds = interleave(calls, rounds, clock)
    return {
        "multiply_adds_per_s": side**3 / min(seconds["product"]),
        "bytes_per_s": 2 * source.nbytes / min(seconds["copy"]),
    }


def machine(device: str = "cpu") -> dict[str, str | int | bool]:
    """Processor, threads, GPU and versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return (_gpu() if device == "cuda" else {}) | {
        "processor": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _gpu() -> dict[str, str | int | bool]:
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "missing"
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton,
        "our kernels run": kernels_are_available(),
        "tf32 of convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 of products": torch.backends.cuda.matmul.allow_tf32,
    }
