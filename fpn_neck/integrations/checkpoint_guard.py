"""How mmengine reads checkpoints in our tools: as plain tensors, whole, and of the right model."""

from __future__ import annotations

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner, checkpoint, find_latest_checkpoint
from torch.distributed.fsdp import FullyShardedDataParallel

from fpn_neck.checkpoints import find_state_dict, fitting, load_checkpoint, why_not_read
from fpn_neck.integrations.mmengine_checkpoints import allowed_objects


def refuse_code() -> None:
    """Make every checkpoint that a config names go through ``weights_only=True``.

    That is ``load_from``, ``resume`` and ``init_cfg``, of files and addresses, which mmengine loads
    with ``weights_only=False``. A refusal is a ValueError that names the file.
    """
    CheckpointLoader.register_scheme("", _load_local, force=True)
    checkpoint.load_url = _load_url  # what http://, torchvision:// and the like share


def _load_local(filename: str, map_location: Any = None) -> Any:
    """On the CPU whatever ``map_location``: the weights are copied to where the model is."""
    return load_checkpoint(filename)


def _load_url(url: str, **options: Any) -> Any:
    try:
        with torch.serialization.safe_globals(allowed_objects()):
            return torch.hub.load_state_dict_from_url(url, **options, weights_only=True)
    except UnpicklingError as e:
        raise ValueError(
            f"checkpoint {url} cannot be read as plain tensors ({why_not_read(e)}); files that "
            "need arbitrary code are refused"
        ) from e


class CheckpointGuard(Hook):
    """Refuses a checkpoint of another model before anything of it is loaded.

    mmengine loads what fits and writes a warning about the rest into the log.

    Args:
        allow_mismatch: do as mmengine does, but say briefly what is left out.
    """

    priority = "HIGHEST"  # before a hook takes weights from it

    def __init__(self, allow_mismatch: bool = False) -> None:
        self._allow_mismatch = allow_mismatch

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check it, and take out what mmengine would run.

        Raises:
            ValueError: weights of another model, see `fitting`; no iteration to resume from, or
                the state of another optimizer.
        """
        name = runner.cfg.get("load_from") or find_latest_checkpoint(runner.work_dir)
        weights = find_state_dict(checkpoint)
        meta = checkpoint.get("meta")
        if isinstance(meta, dict):
            meta.pop("config", None)  # resuming would run its text as Python
        if runner.cfg.get("resume") and not (isinstance(meta, dict) and "iter" in meta):
            raise ValueError(
                f"checkpoint {name} doesn't say at which iteration to go on: start from its "
                "weights with --cfg-options load_from=FILE, without --resume"
            )
        if runner.cfg.get("resume"):
            _check_optimizer(runner.optim_wrapper, checkpoint.get("optimizer"), name)
        if isinstance(runner.model, FullyShardedDataParallel):
            return  # a shard has no names and shapes to compare with
        weights = fitting(
            _bare(runner.model).state_dict(),
            weights,
            name,
            allow_mismatch=self._allow_mismatch,
            warn=runner.logger.warning,
        )
        if self._allow_mismatch or not isinstance(checkpoint.get("state_dict"), Mapping):
            checkpoint["state_dict"] = weights  # mmengine looks nowhere else


def _check_optimizer(wrapper: Any, state: Any, name: str) -> None:
    """Refuse the state of an optimizer with other settings; torch would take it and fail later.

    What only one side has may be the doing of another version of torch, or of a schedule.
    """
    if not isinstance(wrapper, OptimWrapper) or not isinstance(state, Mapping):
        return
    given = {key for group in state.get("param_groups", []) for key in group} - {"initial_lr"}
    own = {key for group in wrapper.optimizer.param_groups for key in group} - {"initial_lr"}
    if given - own and own - given:
        raise ValueError(
            f"checkpoint {name} holds the state of another optimizer, with "
            f"{', '.join(sorted(given - own))}, than {type(wrapper.optimizer).__name__}, with "
            f"{', '.join(sorted(own - given))}: set optim_wrapper.optimizer back, or start from "
            "its weights with --cfg-options load_from=FILE, without --resume"
        )


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside the wrappers of distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
