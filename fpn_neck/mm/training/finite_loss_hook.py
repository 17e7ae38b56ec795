"""A loss or gradient that is NaN or infinite, before it reaches the weights or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from fpn_neck.mm.distributed.consensus import any_process
from fpn_neck.mm.distributed.step_values import BadStep, StepValues
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.photos import paths_in
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.restoring_hook import RestoringHook
from fpn_neck.mm.training.runtime_info_hook import find_runtime_info
from fpn_neck.utils.values import check_flag

MAX_SKIPPED = 50  # batches in a row
_LOSS, _NORM = "loss", "norm of the gradient"


@HOOKS.register_module()
class FiniteLossHook(RestoringHook):
    """Stops a run at a loss or gradient that is not finite, before a checkpoint holds its effect.

    On the CPU, with ``skip``, or with `RuntimeInfoHook`'s ``interval=1``, every step is checked
    before it changes the weights. Else the values stay on the GPU, and `RuntimeInfoHook` reads
    those of several steps together: the weights in memory may be spoilt by then. It reads them
    before every checkpoint.

    Args:
        skip: drop such a batch, with its effect on the statistics of norm layers, and go on. Waits
            for the GPU twice in a step.

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
        info = find_runtime_info(runner)
        if info is None or info.values.at_once or self.skip:
            self._check_at_once(runner, wrapper)
        else:
            self._check_later(runner, wrapper, info.values)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if self._skipped else 0
        self._batch, self._skipped = data_batch, False
        if self.skip:
            self._buffers = [(b, b.clone()) for b in runner.model.buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._batch = None
        if self._skipped and outputs:
            outputs.clear()  # NaN would stay in the log's averages

    def on_bad_step(self, runner: Runner, bad: BadStep) -> None:
        """Stop for a value that was read after its step.

        Raises:
            ValueError: names the iteration of the step.
        """
        where = f" in process {bad.process}" if get_world_size() > 1 else ""
        raise ValueError(
            f"iteration {bad.iteration}: the {bad.name} of {bad.files}{where} is {bad.value}; read "
            "some iterations later, so the weights in memory may be spoilt and are not saved; the "
            f"last good checkpoint: {_last(runner)}; check these files, lower the learning rate, "
            "or drop such batches with --skip-nan"
        )

    def _check_later(self, runner: Runner, wrapper: OptimWrapper, values: StepValues) -> None:
        update, step = wrapper.update_params, wrapper.step
        clips, scaled = _clips_by_norm(wrapper), _scales_loss(wrapper)
        clip: Callable[..., Any] = getattr(wrapper, "clip_func", clip_grad_norm_)

        def check(name: str, value: Tensor) -> None:
            values.check(runner.iter + 1, name, value, _files(self._batch))

        def checked_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            check(_LOSS, loss)
            update(loss, *args, **kwargs)

        def checked_clip(*args: Any, **kwargs: Any) -> None:
            """Keep the norm for the log; mmengine would read what this returns."""
            norm = clip(*args, **kwargs)
            values.add(runner.iter + 1, {wrapper.grad_name: norm})
            if not scaled:
                check(_NORM, norm)

        @wraps(step)  # keeps the mark of mmengine's schedules, by which they find it
        def checked_step(**kwargs: Any) -> None:
            check(_NORM, get_total_norm(_gradients(wrapper)))
            step(**kwargs)

        self.replace(wrapper, "update_params", checked_update)
        if clips:
            self.replace(wrapper, "clip_func", checked_clip)
        elif not scaled:
            self.replace(wrapper, "step", checked_step)

    def _check_at_once(self, runner: Runner, wrapper: OptimWrapper) -> None:
        update, step = wrapper.update_params, wrapper.step
        # The norm of other functions is that of more than this process's gradients.
        clips = _clips_by_norm(wrapper) and wrapper.clip_func is clip_grad_norm_
        kind = wrapper.clip_grad_kwargs.get("norm_type", 2.0) if clips else 2.0

        def checked_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            number = float(loss.detach())
            self._run_if_finite(runner, _LOSS, number, update, loss, *args, **kwargs)

        @wraps(step)  # keeps the mark of mmengine's schedules, by which they find it
        def checked_step(**kwargs: Any) -> None:
            norm = get_total_norm(_gradients(wrapper), kind)
            number = float(norm)
            if clips:
                wrapper.clip_func = partial(_clip, norm, number)
            self._run_if_finite(runner, _NORM, number, step, **kwargs)

        self.replace(wrapper, "update_params", checked_update)
        if not _scales_loss(wrapper):
            self.replace(wrapper, "step", checked_step)
            if clips:
                self.replace(wrapper, "clip_func", clip_grad_norm_)  # of every step its own

    def _run_if_finite(
        self,
        runner: Runner,
        name: str,
        value: float,
        function: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        bad = not math.isfinite(value)
        if not any_process(bad):
            function(*args, **kwargs)
            return
        if bad:
            problem = f"{name} of {_files(self._batch)} is {value}"
        else:
            problem = f"{name} is NaN or infinite in another process"
        self._stop_or_skip(runner, f"iteration {runner.iter + 1}: the {problem}")

    def _stop_or_skip(self, runner: Runner, problem: str) -> None:
        if not self.skip:
            raise ValueError(
                f"{problem}; the weights are unchanged, the last good checkpoint: {_last(runner)}; "
                "check these files, lower the learning rate, or drop such batches with --skip-nan"
            )
        if self._skipped_in_a_row + 1 >= MAX_SKIPPED:
            raise ValueError(
                f"{problem}; that makes {MAX_SKIPPED} dropped batches in a row: the cause is the "
                "weights or the learning rate, not the files; start from other weights or lower "
                f"the learning rate (last checkpoint: {_last(runner)})"
            )
        runner.logger.warning(f"{problem}; batch dropped")
        self._skipped = True
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)


def _clips_by_norm(wrapper: OptimWrapper) -> bool:
    return bool(wrapper.clip_grad_kwargs) and wrapper.grad_name == "grad_norm"


def _scales_loss(wrapper: OptimWrapper) -> bool:
    """A loss scaler expects gradients that are not finite, and lowers its scale at them."""
    return hasattr(wrapper, "loss_scaler")


def _clip(
    norm: Tensor, number: float, parameters: Any, max_norm: float, *, foreach: Any = None, **_: Any
) -> float:
    """``clip_grad_norm_`` for a norm that is known; returns it as a number."""
    clip_grads_with_norm_(parameters, max_norm, norm, foreach)
    return number


def _gradients(wrapper: OptimWrapper) -> list[Tensor]:
    parameters = [p for group in wrapper.param_groups for p in group["params"]]
    return [p.grad for p in parameters if p.grad is not None]


def _last(runner: Runner) -> str:
    return str(last_checkpoint(runner.work_dir) or "none yet")


def _files(batch: Any) -> str:
    return ", ".join(paths_in(batch)) or "a batch that names no files"
