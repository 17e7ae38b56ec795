"""Several processes, on one machine or many: over NCCL as mmengine does it, over gloo on CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.device import utils as mmengine_device
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from fpn_neck.utils.arguments import check_device
from fpn_neck.utils.command_line import end_without_cleaning_up
from fpn_neck.utils.walk import type_name

# launcher -> (the command that starts it, its variable for a process's number on its machine)
LAUNCHERS = {
    "pytorch": ("torchrun or tools/dist_train.sh", "LOCAL_RANK"),
    "slurm": ("srun", "SLURM_LOCALID"),
    "mpi": ("mpirun", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
# Set here or by mmengine, for a launcher that does not.
_VARIABLES = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the processes that the config's launcher started; does nothing for launcher 'none'.

    The config has been changed by `adapt_to_launcher`.

    mmengine's Runner would do it later, when the processes can't agree on an error any more, and
    fails without a GPU. Without one the processes communicate over gloo. After an error the process
    stays in its group: destroying it would wait for processes that may not answer.

    Raises:
        ValueError: nothing has started several processes.
        ConnectionError: inside, another process ended or can't be reached.
    """
    if cfg.launcher == "none":
        yield
        return
    starter, variable = LAUNCHERS[cfg.launcher]
    if variable not in os.environ:
        raise ValueError(
            f"--launcher {cfg.launcher}: {variable} is not set in the environment; start the "
            f"processes by {starter}"
        )
    with _restored_environment():
        os.environ["LOCAL_RANK"] = os.environ[variable]
        end_without_cleaning_up()
        _init_process_group(cfg)
        try:
            yield
        except RuntimeError as e:
            if not isinstance(e, torch.distributed.DistError) and "gloo" not in str(e):
                raise
            raise ConnectionError(
                "another process of this run ended or can't be reached; its own error says why, "
                f"and --resume goes on from the last checkpoint ({e})"
            ) from e
        torch.distributed.destroy_process_group()


def use_device(device: str, launcher: str) -> None:
    """Let mmengine run on this device; it chooses one when it is imported.

    Args:
        device: see `fpn_neck.utils.arguments.check_device`; 'auto' leaves mmengine's choice.
        launcher: the config's; each of its processes has its own GPU.

    Raises:
        ValueError: the device is not there, or is one GPU for several processes.
    """
    if device == "auto":
        return
    chosen = torch.device(check_device(device))
    if chosen.type != "cpu" and launcher != "none":
        raise ValueError(
            f"--device {device} --launcher {launcher}: each process takes its own GPU; choose GPUs "
            "by CUDA_VISIBLE_DEVICES"
        )
    if chosen.index is not None and chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    mmengine_device.DEVICE = chosen.type


def adapt_to_launcher(cfg: Config) -> None:
    """Change a config's model wrapper and strategy to what its launcher needs."""
    if cfg.launcher == "none":
        if type_name(cfg.get("strategy", {})).endswith("FSDPStrategy"):
            cfg.pop("strategy")  # one process has the whole model
            cfg.pop("runner_type", None)
        return
    # A level that no head uses has no gradient, for which torch would wait.
    cfg.setdefault("find_unused_parameters", True)
    if get_device() == "cpu":
        wrapper = cfg.get("model_wrapper_cfg") or ConfigDict(  # mmengine's default
            broadcast_buffers=False, find_unused_parameters=cfg.find_unused_parameters
        )
        if not wrapper.get("type") or type_name(wrapper) == "MMDistributedDataParallel":
            cfg.model_wrapper_cfg = {**wrapper, "type": "fpn_neck.CPUDistributedDataParallel"}


def _init_process_group(cfg: Config) -> None:
    env = cfg.get("env_cfg") or {}
    set_multi_processing(**env.get("mp_cfg") or {}, distributed=True)
    settings = dict(env.get("dist_cfg") or {})
    if get_device() != "cpu":
        init_dist(cfg.launcher, **settings)
        return
    with _without_set_device():
        init_dist(cfg.launcher, **settings | {"backend": "gloo"})


@contextmanager
def _without_set_device() -> Iterator[None]:
    """mmengine sets the process's GPU with every backend, which fails without a GPU."""
    set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = set_device


@contextmanager
def _restored_environment() -> Iterator[None]:
    before = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        for name in _VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)
