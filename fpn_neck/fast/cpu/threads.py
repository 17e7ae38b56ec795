"""Threads that each do a part of the work from beginning to end.

At the end of every operator, torch's threads wait for the slowest of them. Over hundreds of short
operators these waits add up, above all on a machine with other work. Independent parts wait only
once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Barrier
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

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return task(part)

    pool = _pool(torch.get_num_threads())
    futures: list[Future[Result]] = []
    if pool is not None:
        with suppress(RuntimeError):  # the interpreter is shutting down and takes no new work
            for part in parts:
                futures.append(pool.submit(run, part))
    return [f.result() for f in futures] + [run(part) for part in parts[len(futures) :]]


@cache
def _pool(threads: int) -> ThreadPoolExecutor | None:
    """Threads that each run an operator without torch's; None if the system gives no more."""
    pool = ThreadPoolExecutor(threads, "fpn_neck")
    all_started = Barrier(threads)

    def start(_: int) -> None:
        all_started.wait()  # so that each thread runs one of these calls
        torch.get_num_threads()  # a thread's first call takes over the number of the process
        torch.set_num_threads(1)  # for this thread and for threads that start later

    try:
        list(pool.map(start, range(threads)))
    except RuntimeError:
        all_started.abort()  # or the threads that did start would wait for ever
        pool.shutdown(wait=False)
        return None
    finally:
        torch.set_num_threads(threads)
    return pool


# A forked process (a data loader's worker) has the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
