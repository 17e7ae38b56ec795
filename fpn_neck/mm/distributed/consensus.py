"""Decisions that all processes of a run take together."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from itertools import chain

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, all_reduce, barrier, get_world_size, is_main_process

from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.utils.text import one_line


def any_process(flag: bool) -> bool:
    """Whether the flag is true in any process. All processes must call it together."""
    if get_world_size() == 1:
        return flag
    answer = torch.tensor(int(flag))
    all_reduce(answer, "max")
    return bool(answer)


def gather_errors(check: Callable[[], list[str]]) -> list[str]:
    """The error lines of ``check`` on all machines, each line once: the same in every process.

    One process of each machine runs it, and what it raises becomes a line. A run of a single
    process lets it raise.
    """
    if get_world_size() == 1:
        return check()
    lines: list[str] = []
    try:
        lines = check() if int(os.environ["LOCAL_RANK"]) == 0 else []
    except (ValueError, TypeError, OSError) as e:
        lines = [f"error: {one_line(e)}"]
    return list(dict.fromkeys(chain.from_iterable(all_gather_object(lines))))


def differing_checkpoints(cfg: Config) -> list[str]:
    """An error line if the machines would start from different checkpoints."""
    last = last_checkpoint(cfg.work_dir) if cfg.get("resume") else None
    starts = all_gather_object((socket.gethostname(), str(cfg.get("load_from") or last)))
    if len({start for _, start in starts}) == 1:
        return []
    found = ", ".join(dict.fromkeys(f"{start} on {host}" for host, start in starts))
    return [
        f"error: the machines would start from different checkpoints ({found}): --resume needs a "
        "--work-dir that all machines share"
    ]


def print_errors(lines: list[str]) -> int:
    """Print the lines in the first process; returns the command's exit code, 2, in all of them."""
    if is_main_process():
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    barrier()  # the end of another process could stop the first one before it has printed
    return 2
