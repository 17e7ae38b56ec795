"""Checks a checkpoint before a Runner takes anything from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from fpn_neck.datasets.check.heads import other_order
from fpn_neck.mm.config.recorded import check_settings
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.training.resuming import check_resumable
from fpn_neck.weights.checkpoints import find_state_dict, matching_weights


def guard_checkpoints(runner: Runner, *splits: str, allow_mismatch: bool = False) -> None:
    """Register a `CheckpointGuard`, and let the Runner read a checkpoint on the CPU when resuming.

    mmengine reads it on the GPU, which then holds weights and optimizer twice, and for FSDP the
    whole model. Both are copied to the model's device anyway.

    Args:
        splits: of 'train', 'val', 'test', those whose loops the run builds.
    """
    runner.register_hook(CheckpointGuard(*splits, allow_mismatch=allow_mismatch))
    runner.resume = partial(runner.resume, map_location="cpu")


class CheckpointGuard(Hook):
    """Refuses a checkpoint of another model before anything of it is loaded.

    mmengine loads the tensors that match, and logs a warning about the others.

    Args:
        splits: see `guard_checkpoints`.
        allow_mismatch: load the tensors that match, as mmengine does, with a shorter warning, and
            whatever the order of the classes.
    """

    priority = "HIGHEST"  # before other hooks take weights from the checkpoint

    def __init__(self, *splits: str, allow_mismatch: bool = False) -> None:
        self._splits = splits
        self._allow_mismatch = allow_mismatch

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check it, and remove the text that mmengine would run.

        Raises:
            ValueError: weights of another model, see `matching_weights`, or NaN; in testing, other
                settings, see `check_settings`; the classes of a
                data set in another order; when resuming, what `check_resumable` raises.
        """
        name = str(runner.cfg.get("load_from") or last_checkpoint(runner.work_dir))
        weights = find_state_dict(checkpoint)
        meta = checkpoint.get("meta")
        self._check_settings(runner, meta, name)
        if isinstance(meta, dict):
            meta.pop("config", None)  # resuming would run its text as Python
        expected = _own_weights(runner.model)
        if expected is not None:
            weights = matching_weights(
                expected,
                weights,
                name,
                allow_mismatch=self._allow_mismatch,
                warn=runner.logger.warning,
            )
        given = checkpoint.get("state_dict")
        if not isinstance(given, Mapping) or given.keys() != weights.keys():
            checkpoint["state_dict"] = weights  # mmengine looks nowhere else, and takes any name
        _refuse_bad_values(weights, expected or {}, name)
        if not self._allow_mismatch:
            _refuse_other_order(runner, self._splits, meta, name)
        if runner.cfg.get("resume"):
            check_resumable(runner, checkpoint, name)

    def _check_settings(self, runner: Runner, meta: Any, name: str) -> None:
        """Training may change them: it only warns of them, if it is resumed."""
        is_test = self._splits == ("test",)
        if is_test or runner.cfg.get("resume"):
            check_settings(
                runner.cfg.get("model") or {},
                meta,
                name,
                allow_mismatch=self._allow_mismatch or not is_test,
                warn=runner.logger.warning,
            )

    def before_train(self, runner: Runner) -> None:
        """Warn if nothing is left to train."""
        loop = runner.train_loop
        unit = "iter" if isinstance(loop, IterBasedTrainLoop) else "epoch"
        done, last = getattr(loop, unit, 0), getattr(loop, f"max_{unit}s", None)
        if last is not None and done >= last:  # loops of other packages may count otherwise
            runner.logger.warning(
                f"nothing left to train: the checkpoint is at {unit} {done}, and "
                f"train_cfg.max_{unit}s={last}; raise that to go on"
            )


def _refuse_bad_values(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> None:
    """Refuse NaN and infinity, except where the model itself holds them, as masks do."""
    for key, value in weights.items():
        if _is_bad(value) and not (key in expected and _is_bad(expected[key])):
            raise ValueError(
                f"checkpoint {name}: {key} holds NaN or infinity, and so would every output: use "
                "a checkpoint from before the training diverged"
            )


def _refuse_other_order(runner: Runner, splits: Sequence[str], meta: Any, name: str) -> None:
    """Refuse classes in another order than the data sets': metrics would compare other labels."""
    meta = meta if isinstance(meta, Mapping) else {}
    trained = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES") or ()
    for split in splits:
        loop = getattr(runner, f"{split}_loop")
        dataset = getattr(getattr(loop, "dataloader", None), "dataset", None)
        own = getattr(dataset, "metainfo", {}).get("classes") or ()
        text = other_order(list(trained), list(own))
        if text:
            raise ValueError(
                f"checkpoint {name} was trained with the classes of {split}_dataloader in another "
                f"order: {text}; set metainfo=dict(classes=...) to the checkpoint's order (train "
                "and test load it anyway with --allow-mismatch)"
            )


def _is_bad(value: Tensor) -> bool:
    if value.is_meta:
        return False  # a parameter of a sharded model
    return value.is_floating_point() and not bool(value.isfinite().all())


def _own_weights(model: Any) -> Mapping[str, Tensor] | None:
    """Names and shapes of the whole model, and the values of its buffers; None if not known."""
    if isinstance(model, FullyShardedDataParallel):
        return getattr(model, "whole_state_dict", None)  # of `FSDPStrategy`; a shard has none
    return _unwrapped(model).state_dict()


def _unwrapped(model: Any) -> torch.nn.Module:
    """The model inside the wrappers of distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
