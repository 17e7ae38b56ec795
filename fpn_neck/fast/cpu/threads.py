"""Torch's own threads, each of which does a part of the work from beginning to end.

At the end of every operator, torch's threads wait for the slowest of them. Over hundreds of short
operators these waits add up, above all on a machine with other work. Independent parts wait only
once.

Threads of our own would find the cores busy: for some milliseconds after each operator, torch's
threads wait actively. So the parts run in torch's threads: OpenMP's, by the function that compilers
call for ``#pragma omp parallel``. Operators inside know that and start no threads.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def available_threads() -> int:
    """How many threads `run_in_threads` uses; 1 if it can't use torch's."""
    return 1 if _openmp is None else torch.get_num_threads()


def run_in_threads(task: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``[task(part) for part in parts]``, without gradients, on as many threads as torch may use.

    The threads take over inference mode from the calling thread, and no other mode.
    """
    if _openmp is None or len(parts) < 2 or torch.get_num_threads() < 2:
        with torch.no_grad():
            return [task(part) for part in parts]
    inference = torch.is_inference_mode_enabled()
    waiting: SimpleQueue[int] = SimpleQueue()
    for i in range(len(parts)):
        waiting.put(i)
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run(_: int | None) -> None:
        try:
            with torch.inference_mode(inference), torch.no_grad(), suppress(Empty):
                while not errors:
                    i = waiting.get_nowait()
                    results[i] = task(parts[i])
        except BaseException as e:  # also an interruption: it ends the call, not OpenMP's thread
            errors.append(e)

    # All threads, even if there are fewer parts: OpenMP ends the threads that a call leaves out.
    _openmp.GOMP_parallel(
        _BODY(run), None, ctypes.c_uint(torch.get_num_threads()), ctypes.c_uint(0)
    )
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(parts))]


def _find_openmp() -> ctypes.CDLL | None:
    """Torch's library, if it is linked with an OpenMP that has GCC's interface, else None."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(str(path))
        if "ATen parallel backend: OpenMP" in torch.__config__.parallel_info():
            library.GOMP_parallel.restype = None
            return library
    return None


_openmp = _find_openmp()


def _forget() -> None:
    global _openmp
    _openmp = None


# A forked process (a data loader's worker) has OpenMP's state without its threads, and would wait
# for them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
