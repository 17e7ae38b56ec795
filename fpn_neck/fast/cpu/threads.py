"""Threads that each do a part of the work from beginning to end.

At the end of every operator, torch's threads wait for the slowest of them. Over hundreds of short
operators these waits add up, above all on a machine with other work. Independent parts wait only
once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Barrier, Lock
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def run_in_threads(task: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``[task(part) for part in parts]``, without gradients, on as many threads as torch may use.

    The threads take over inference mode from the calling thread, and no other mode.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        with torch.no_grad():
            return [task(part) for part in parts]
    inference = torch.is_inference_mode_enabled()
    waiting: SimpleQueue[int] = SimpleQueue()
    for i in range(len(parts)):
        waiting.put(i)
    results: dict[int, Result] = {}

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad(), suppress(Empty):
            while True:
                i = waiting.get_nowait()
                results[i] = task(parts[i])

    for future in _pool.submit(run, threads):
        future.result()
    run()  # what is left if the system gave no threads
    return [results[i] for i in range(len(parts))]


class _Pool:
    """Threads that each run an operator without torch's threads; as many as were ever needed."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0

    def submit(self, run: Callable[[], None], threads: int) -> list[Future[None]]:
        """Start ``run`` in this number of threads, or in fewer if the system gives no more."""
        futures: list[Future[None]] = []
        with self.lock:
            if self.size < threads:
                self._replace(torch.get_num_threads())
            if self.executor is not None:
                with suppress(RuntimeError):  # the interpreter is shutting down
                    for _ in range(threads):
                        futures.append(self.executor.submit(run))
        return futures

    def _replace(self, size: int) -> None:
        executor = _start(size)
        if executor is None:
            return
        if self.executor is not None:
            self.executor.shutdown(wait=False)  # its threads end after what they have begun
        self.executor, self.size = executor, size


def _start(size: int) -> ThreadPoolExecutor | None:
    """Threads without torch's threads; None if the system gives no more."""
    process_threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(size, "fpn_neck")
    all_started = Barrier(size)

    def start(_: int) -> bool:
        all_started.wait()  # so that each thread runs one of these calls
        torch.get_num_threads()  # a thread's first call takes over the number of the process
        if _set_own_number(1):
            return False
        torch.set_num_threads(1)  # for this thread and for threads that start later
        return True

    try:
        if any(list(executor.map(start, range(size)))):
            torch.set_num_threads(process_threads)
    except RuntimeError:
        all_started.abort()  # or the threads that did start would wait for ever
        executor.shutdown(wait=False)
        return None
    return executor


def _find_thread_library() -> ctypes.CDLL | None:
    """torch's library if it has the functions that set the number of one thread, else None."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not path.exists():
        return None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(str(path))
        if library.omp_set_num_threads and (
            not torch.backends.mkl.is_available() or library.MKL_Set_Num_Threads_Local
        ):
            return library
    return None


_thread_library = _find_thread_library()


def _set_own_number(number: int) -> bool:
    """Set the calling thread's number only; False if torch's library cannot do that."""
    if _thread_library is None:
        return False
    _thread_library.omp_set_num_threads(number)
    if torch.backends.mkl.is_available():
        _thread_library.MKL_Set_Num_Threads_Local(number)
    return torch.get_num_threads() == number


_pool = _Pool()


def _reset() -> None:
    global _pool
    _pool = _Pool()


# A forked process (a data loader's worker) has the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
