"""What a step leaves for the log and for the other hooks, without a wait for the GPU."""

from __future__ import annotations

from typing import Any

from mmengine import hooks
from mmengine.runner import Runner

from fpn_neck.mm.distributed.step_values import BadStep, StepValues
from fpn_neck.mm.registry import HOOKS
from fpn_neck.utils.values import check_whole


@HOOKS.register_module()
class RuntimeInfoHook(hooks.RuntimeInfoHook):
    """``mmengine.RuntimeInfoHook`` that reads the losses of several steps together.

    mmengine reads every loss after every step, each with a wait for the GPU, and logs the losses
    of the first process. Here the steps' values stay on the GPU, see `StepValues`. They are read
    before they are logged, before a checkpoint is saved, before a validation and at the end. The
    log gets the means over the processes, which are the losses of the whole batch.

    A hook with a method ``on_bad_step(runner, bad: BadStep)`` is told of a value that is not
    finite.

    Args:
        interval: see `StepValues`. 1 checks and reads every step, on a GPU too.
    """

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None:
            check_whole("interval", interval, 1)
        self.values = StepValues(interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        others = self.values.add(runner.iter + 1, outputs or {})
        super().after_train_iter(runner, batch_idx, data_batch, others)
        if self.values.is_due or _is_logged(runner, batch_idx):
            self.read(runner)

    def before_val(self, runner: Runner) -> None:
        self.read(runner)
        super().before_val(runner)

    def after_train(self, runner: Runner) -> None:
        self.read(runner)
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the steps that are not read yet; `CheckpointHook` reads them before it saves.

        Other hooks may save too. The first process is alone here, and can't read for all.
        """
        _report(runner, self.values.first_bad())

    def read(self, runner: Runner) -> None:
        """Read the steps since the last read, and log their losses; in all processes together."""
        if not len(self.values):
            return
        steps, bad = self.values.read()
        _report(runner, bad)
        for losses in steps:
            for name, value in losses.items():
                runner.message_hub.update_scalar(f"train/{name}", value)


def find_runtime_info(runner: Runner) -> RuntimeInfoHook | None:
    """The runner's hook; None if its config has another one."""
    return next((hook for hook in runner.hooks if isinstance(hook, RuntimeInfoHook)), None)


def _report(runner: Runner, bad: BadStep | None) -> None:
    if bad:
        runner.call_hook("on_bad_step", bad=bad)


def _is_logged(runner: Runner, batch_idx: int) -> bool:
    """Whether mmengine's hook logs this step; it then averages the losses of the last ones."""
    loader = runner.train_dataloader
    return any(
        hook.every_n_inner_iters(batch_idx, hook.interval) or hook.end_of_epoch(loader, batch_idx)
        for hook in runner.hooks
        if isinstance(hook, hooks.LoggerHook)
    )
