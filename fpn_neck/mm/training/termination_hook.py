"""SIGTERM, by which schedulers announce that a run's time is over."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import Runner

from fpn_neck.mm.distributed.consensus import any_process
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.checkpoint_hook import CheckpointHook
from fpn_neck.mm.training.restoring_hook import RestoringHook

EXIT_CODE = 128 + signal.SIGTERM  # 143, the same as of a process that doesn't catch it


@HOOKS.register_module()
class TerminationHook(RestoringHook):
    """On SIGTERM, ends the iteration, saves a checkpoint and exits with code 143.

    During a validation, a single process exits at once if a checkpoint holds the weights already.
    Otherwise it exits after the validation. All processes of a run end at the same iteration.
    """

    priority = "LOWEST"  # after the schedulers' step and the regular checkpoint

    def before_train(self, runner: Runner) -> None:
        self._requested = multiprocessing.RawValue("b")  # shared with the data loading processes
        # At exit torch ends these by SIGTERM, which they ignore while a stop is requested.
        atexit.register(self._set_requested, False)
        self.at_restore(atexit.unregister, self._set_requested)
        self.at_restore(self._set_requested, False)
        handler = signal.signal(signal.SIGTERM, lambda *_: self._set_requested(True))
        self.at_restore(signal.signal, signal.SIGTERM, handler)
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            initialize = partial(_init_worker, self._requested, loop.dataloader.worker_init_fn)
            self.replace(loop.dataloader, "worker_init_fn", initialize)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._exit_if_requested(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # No checkpoint is saved here: the model may hold averaged weights now, with which training
        # must not go on. And the processes may have different numbers of validation batches, so
        # they can't all ask for a stop here.
        saved = all(hook.saved_iter == runner.iter for hook in _checkpoint_hooks(runner))
        if saved and get_world_size() == 1:
            self._exit_if_requested(runner, None)

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._exit_if_requested(runner, runner.iter)

    def _set_requested(self, requested: bool) -> None:
        self._requested.value = requested

    def _exit_if_requested(self, runner: Runner, iteration: int | None) -> None:
        """Save this iteration, if it is one and no checkpoint holds it yet, and exit."""
        if not any_process(bool(self._requested.value)):
            return
        for hook in _checkpoint_hooks(runner):
            if iteration and hook.saved_iter != iteration:
                hook.save_now(runner, iteration)
        runner.logger.info("ended by SIGTERM; go on with --resume")
        self._set_requested(False)
        raise SystemExit(EXIT_CODE)


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _init_worker(
    requested: Any, worker_init_fn: Callable[[int], None] | None, worker_id: int
) -> None:
    """Let a data loading process survive a SIGTERM that the main process gets as well.

    Schedulers send it to all processes, and the main process may need a last batch before it saves.
    If the main process requests no stop within 2 s, it did not get the signal, or it needs no batch
    any more: then this process ends.
    """

    def ignore_or_end(*args: Any) -> None:
        for _ in range(200):
            if requested.value:
                return
            time.sleep(0.01)
        os._exit(0)  # torch reports any other code as an error

    signal.signal(signal.SIGTERM, ignore_or_end)
    if worker_init_fn:
        worker_init_fn(worker_id)
