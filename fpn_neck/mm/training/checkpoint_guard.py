"""How mmengine reads checkpoints in our tools: as plain tensors, whole, and of the right model."""

from __future__ import annotations

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import (
    CheckpointLoader,
    IterBasedTrainLoop,
    Runner,
    checkpoint,
    find_latest_checkpoint,
)
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from fpn_neck.mm.training.resuming import check_resumable
from fpn_neck.weights.checkpoints import find_state_dict, fitting, load_checkpoint, why_not_read
from fpn_neck.weights.mmengine_files import allowed_objects


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
            ValueError: weights of another model, see `fitting`, or NaN; when resuming, what
                `check_resumable` raises.
        """
        name = runner.cfg.get("load_from") or find_latest_checkpoint(runner.work_dir)
        weights = find_state_dict(checkpoint)
        meta = checkpoint.get("meta")
        if isinstance(meta, dict):
            meta.pop("config", None)  # resuming would run its text as Python
        if isinstance(runner.model, FullyShardedDataParallel):
            own: dict[str, Tensor] = {}  # a shard has no names and shapes to compare with
        else:
            own = _bare(runner.model).state_dict()
            weights = fitting(
                own,
                weights,
                name,
                allow_mismatch=self._allow_mismatch,
                warn=runner.logger.warning,
            )
            if self._allow_mismatch or not isinstance(checkpoint.get("state_dict"), Mapping):
                checkpoint["state_dict"] = weights  # mmengine looks nowhere else
        _refuse_bad_values(weights, own, name)
        if runner.cfg.get("resume"):
            check_resumable(runner, checkpoint, name)

    def before_train(self, runner: Runner) -> None:
        """Say so where nothing is left to train."""
        loop = runner.train_loop
        unit = "iter" if isinstance(loop, IterBasedTrainLoop) else "epoch"
        done, last = getattr(loop, unit, 0), getattr(loop, f"max_{unit}s", None)
        if last is not None and done >= last:  # loops of other packages may count otherwise
            runner.logger.warning(
                f"nothing left to train: the checkpoint is at {unit} {done}, and "
                f"train_cfg.max_{unit}s={last}; raise that to go on"
            )


def _refuse_bad_values(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Refuse NaN and infinity but where the model itself holds them, as masks do."""
    for key, value in weights.items():
        if _is_bad(value) and not (key in own and _is_bad(own[key])):
            raise ValueError(
                f"checkpoint {name}: {key} holds NaN or infinity, and so would every output: take "
                "one from before the training diverged"
            )


def _is_bad(value: Tensor) -> bool:
    return value.is_floating_point() and not bool(value.isfinite().all())


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside the wrappers of distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
