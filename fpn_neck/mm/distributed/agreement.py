"""What all processes of a run must decide alike."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce, get_world_size


def any_process(here: bool) -> bool:
    """Whether it is so in at least one process; every process must ask, and gets one answer."""
    if get_world_size() == 1:
        return here
    answer = torch.tensor(int(here))
    all_reduce(answer, "max")
    return bool(answer)
