"""A loss that is NaN or infinite, before it reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from fpn_neck.mm.distributed.agreement import any_process
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.registry import HOOKS
from fpn_neck.utils.arguments import check_flag

MAX_DROPPED = 50  # batches in a row


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a run at a loss or gradient that is not finite; the weights stay as they were.

    Args:
        skip: drop such a batch, with what it did to the norms' statistics, and go on.

    Raises:
        ValueError: names the iteration, the batch's files and the last checkpoint. With ``skip``:
            at the 50th batch in a row.
    """

    priority = "HIGHEST"  # before the hook that logs the losses

    def __init__(self, skip: bool = False) -> None:
        self.skip = check_flag("skip", skip)
        self._skipped, self._dropped = False, 0

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            return  # several optimizers: the model steps them itself

        update, step = wrapper.update_params, wrapper.step

        def checked_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self._unless_bad(runner, "loss", loss.detach(), update, loss, *args, **kwargs)

        @wraps(step)  # mmengine's schedules look for their mark on it
        def checked_step(**kwargs: Any) -> None:
            norm = _gradient_norm(wrapper)
            self._unless_bad(runner, "norm of the gradient", norm, step, **kwargs)

        wrapper.update_params = checked_update
        if not hasattr(wrapper, "loss_scaler"):  # one expects such gradients and lowers its scale
            wrapper.step = checked_step

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._dropped = self._dropped + 1 if self._skipped else 0
        self._data, self._skipped = data_batch, False
        if self.skip:
            self._buffers = [(b, b.clone()) for b in runner.model.buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._skipped and outputs:
            outputs.clear()  # NaN would stay in the log's averages

    def _unless_bad(
        self, runner: Runner, what: str, value: Tensor, do: Callable, *args: Any, **kwargs: Any
    ) -> None:
        bad = not math.isfinite(value)
        if not any_process(bad):
            do(*args, **kwargs)
            return
        of = f" of {_files(self._data)}" if bad else " in another process"
        text = f"iteration {runner.iter + 1}: the {what}{of} is {float(value) if bad else 'bad'}"
        if not self.skip:
            raise ValueError(
                f"{text}; weights untouched, last good checkpoint: {_last_checkpoint(runner)}; "
                "look at these files, lower the learning rate, or drop such batches by --skip-nan"
            )
        if self._dropped + 1 >= MAX_DROPPED:
            raise ValueError(
                f"{text}; that makes {MAX_DROPPED} dropped batches in a row: the weights or the "
                "learning rate are at fault, not the files; start from other weights or lower it "
                f"(last checkpoint: {_last_checkpoint(runner)})"
            )
        runner.logger.warning(f"{text}; batch dropped")
        self._skipped = True
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)


def _gradient_norm(wrapper: OptimWrapper) -> Tensor:
    parameters = [p for group in wrapper.param_groups for p in group["params"]]
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _files(batch: Any) -> str:
    samples = batch.get("data_samples", []) if isinstance(batch, dict) else []
    paths = [str(sample.get("img_path", "?")) for sample in samples]
    return ", ".join(paths) or "a batch that names no files"


def _last_checkpoint(runner: Runner) -> str:
    return last_checkpoint(runner.work_dir) or "none yet"
