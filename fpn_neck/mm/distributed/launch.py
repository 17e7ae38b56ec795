"""Several processes, on one machine or many: over NCCL as mmengine does it, over gloo on CPUs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import (
    all_gather_object,
    barrier,
    get_world_size,
    init_dist,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from fpn_neck.mm.registry import HOOKS, MODEL_WRAPPERS

# launcher -> (what starts it, the variable in which that puts a process's number on its machine)
LAUNCHERS = {
    "pytorch": ("torchrun or tools/dist_train.sh", "LOCAL_RANK"),
    "slurm": ("srun", "SLURM_LOCALID"),
    "mpi": ("mpirun", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


@contextmanager
def joined_processes(cfg: Config) -> Iterator[None]:
    """Join the processes that the config's launcher started; nothing for launcher 'none'.

    mmengine's Runner would do it later, when they can't agree on a refusal any more, and fails
    without a GPU. There they talk over gloo, and `CPUDistributedDataParallel` wraps the model.

    Raises:
        ValueError: nothing has started several processes.
        ConnectionError: inside, another process ended or can't be reached.
    """
    if cfg.launcher == "none":
        if str(cfg.get("strategy", {}).get("type")).endswith("FSDPStrategy"):
            cfg.pop("strategy")  # there is nobody to share the model with
            cfg.pop("runner_type", None)
        yield
        return
    starter, number = LAUNCHERS[cfg.launcher]
    if number not in os.environ:
        raise ValueError(
            f"--launcher {cfg.launcher}: no {number} in the environment; start it by {starter}, "
            "see docs/distributed.md"
        )
    os.environ["LOCAL_RANK"] = os.environ[number]
    _join(cfg)
    try:
        yield
    except RuntimeError as e:
        if not isinstance(e, torch.distributed.DistError) and "gloo" not in str(e):
            raise
        raise ConnectionError(
            "another process of this run ended or can't be reached; the one that ended says why, "
            f"and --resume goes on from the last checkpoint ({e})"
        ) from e
    torch.distributed.destroy_process_group()


def _join(cfg: Config) -> None:
    env = cfg.get("env_cfg") or {}
    set_multi_processing(**env.get("mp_cfg") or {}, distributed=True)
    settings = dict(env.get("dist_cfg") or {})
    # A level that no head takes has no gradient, for which torch would wait.
    cfg.setdefault("find_unused_parameters", True)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="fpn_neck.MeanLossHook")]
    if get_device() != "cpu":
        init_dist(cfg.launcher, **settings)
        return
    with _no_gpu_to_choose():
        init_dist(cfg.launcher, **settings | {"backend": "gloo"})
    wrapper = cfg.get("model_wrapper_cfg") or ConfigDict(  # as mmengine's
        broadcast_buffers=False, find_unused_parameters=cfg.find_unused_parameters
    )
    if wrapper.get("type", "MMDistributedDataParallel") == "MMDistributedDataParallel":
        cfg.model_wrapper_cfg = {**wrapper, "type": "fpn_neck.CPUDistributedDataParallel"}


@contextmanager
def _no_gpu_to_choose() -> Iterator[None]:
    """mmengine sets the process's GPU whatever the backend."""
    set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = set_device


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DDP without the GPU's number that mmengine gives it."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Logs the mean of the processes' losses, which is the whole batch's, not the first one's."""

    priority = "HIGHEST"  # before the hook that logs the losses

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not outputs:
            return  # a dropped batch
        of_all = all_gather_object({name: value.mean().item() for name, value in outputs.items()})
        for name, value in outputs.items():
            found = [one[name] for one in of_all if name in one]
            outputs[name] = torch.full_like(value, sum(found) / len(found))


def agreed(check: Callable[[], list[str]]) -> list[str]:
    """What ``check`` refuses on any machine, no line twice: the same lines in every process.

    One process of each machine runs it, and its errors become lines; where there is one process
    alone they are raised.
    """
    if get_world_size() == 1:
        return check()
    lines: list[str] = []
    try:
        lines = check() if int(os.environ["LOCAL_RANK"]) == 0 else []
    except (ValueError, TypeError, OSError) as e:
        lines = [f"error: {' '.join(str(e).split())}"]
    return list(dict.fromkeys(chain.from_iterable(all_gather_object(lines))))


def different_starts(cfg: Config) -> list[str]:
    """A refusal where the machines would go on from different checkpoints."""
    last = find_latest_checkpoint(cfg.work_dir) if cfg.get("resume") else None
    starts = all_gather_object((socket.gethostname(), str(cfg.get("load_from") or last)))
    if len({start for _, start in starts}) == 1:
        return []
    what = ", ".join(dict.fromkeys(f"{start} on {host}" for host, start in starts))
    return [
        f"error: the machines would start from different checkpoints ({what}): --resume needs a "
        "--work-dir that all share"
    ]


def refuse(lines: list[str]) -> int:
    """Let the first process print the lines, then all end; returns a tool's exit code for it."""
    if is_main_process():
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    barrier()  # the end of another one could stop the first before it has printed
    return 2
