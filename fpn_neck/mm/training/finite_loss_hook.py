"""A loss that is NaN or infinite, before it reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from fpn_neck.mm.distributed.consensus import any_process
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.restoring_hook import RestoringHook
from fpn_neck.utils.arguments import check_flag

MAX_SKIPPED = 50  # batches in a row


@HOOKS.register_module()
class FiniteLossHook(RestoringHook):
    """Stops a run at a loss or gradient that is not finite; the weights stay as they were.

    Args:
        skip: drop such a batch, with its effect on the statistics of norm layers, and go on.

    Raises:
        ValueError: names the iteration, the batch's files and the last checkpoint. With ``skip``:
            at the 50th batch in a row.
    """

    priority = "HIGHEST"  # before the hook that logs the losses

    def __init__(self, skip: bool = False) -> None:
        super().__init__()
        self.skip = check_flag("skip", skip)
        self._skipped, self._skipped_in_a_row = False, 0

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            return  # several optimizers: the model steps them itself

        update, step = wrapper.update_params, wrapper.step

        def checked_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self._run_if_finite(runner, "loss", loss.detach(), update, loss, *args, **kwargs)

        @wraps(step)  # keeps the mark of mmengine's schedules, by which they find it
        def checked_step(**kwargs: Any) -> None:
            norm = _gradient_norm(wrapper)
            self._run_if_finite(runner, "norm of the gradient", norm, step, **kwargs)

        self.replace(wrapper, "update_params", checked_update)
        # A loss scaler expects gradients that are not finite, and lowers its scale at them.
        if not hasattr(wrapper, "loss_scaler"):
            self.replace(wrapper, "step", checked_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if self._skipped else 0
        self._batch, self._skipped = data_batch, False
        if self.skip:
            self._buffers = [(b, b.clone()) for b in runner.model.buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._skipped and outputs:
            outputs.clear()  # NaN would stay in the log's averages

    def _run_if_finite(
        self,
        runner: Runner,
        name: str,
        value: Tensor,
        function: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        bad = not math.isfinite(value)
        if not any_process(bad):
            function(*args, **kwargs)
            return
        if bad:
            problem = f"{name} of {_files(self._batch)} is {float(value)}"
        else:
            problem = f"{name} is NaN or infinite in another process"
        self._stop_or_skip(runner, f"iteration {runner.iter + 1}: the {problem}")

    def _stop_or_skip(self, runner: Runner, problem: str) -> None:
        checkpoint = last_checkpoint(runner.work_dir) or "none yet"
        if not self.skip:
            raise ValueError(
                f"{problem}; the weights are unchanged, the last good checkpoint: {checkpoint}; "
                "check these files, lower the learning rate, or drop such batches with --skip-nan"
            )
        if self._skipped_in_a_row + 1 >= MAX_SKIPPED:
            raise ValueError(
                f"{problem}; that makes {MAX_SKIPPED} dropped batches in a row: the cause is the "
                "weights or the learning rate, not the files; start from other weights or lower "
                f"the learning rate (last checkpoint: {checkpoint})"
            )
        runner.logger.warning(f"{problem}; batch dropped")
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
