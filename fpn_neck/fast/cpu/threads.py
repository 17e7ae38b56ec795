"""Threads that each do a part of the work from end to end.

Inside an operator, torch's threads wait for each other at its end. Over hundreds of short operators
the slowest thread of each adds up, and on a machine with other work to do one is always slow. Parts
that need nothing of each other wait once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def spread(task: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``[task(part) for part in parts]``, without gradients, on as many threads as torch may use.

    Whether inference mode is on goes along; other modes of the calling thread do not.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        with torch.no_grad():
            return [task(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return task(part)

    pool, futures = _pool(torch.get_num_threads()), []
    with suppress(RuntimeError):  # the interpreter is at its end, and so are its pools
        for part in parts if pool else ():
            futures.append(pool.submit(run, part))
    return [f.result() for f in futures] + [run(part) for part in parts[len(futures) :]]


@cache
def _pool(threads: int) -> ThreadPoolExecutor | None:
    """None where the system gives no more threads."""
    pool = ThreadPoolExecutor(threads, "fpn_neck")
    everyone = Barrier(threads)

    def start(_: int) -> None:
        everyone.wait()  # so that each thread gets one of these calls
        torch.get_num_threads()  # the thread's first call takes over the process's number
        torch.set_num_threads(1)  # for this thread, and for those that will start later

    try:
        list(pool.map(start, range(threads)))
    except RuntimeError:
        everyone.abort()  # or those that did start would wait for good
        pool.shutdown(wait=False)
        return None
    finally:
        torch.set_num_threads(threads)
    return pool


# A forked process (a data loader's worker) has the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
