"""SIGTERM, by which schedulers announce that a run's time is over."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from fpn_neck.mm.distributed.consensus import any_process
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.checkpoint_hook import CheckpointHook
from fpn_neck.mm.training.restoring_hook import RestoringHook, kill_loading_processes
from fpn_neck.mm.training.runtime_info_hook import find_runtime_info

EXIT_CODE = 128 + signal.SIGTERM  # 143, the same as of a process that doesn't catch it
PATIENCE = 30.0  # s


@HOOKS.register_module()
class TerminationHook(RestoringHook):
    """On SIGTERM, ends the iteration, saves a checkpoint and exits with code 143.

    A single process that waits for data exits at once. During a validation it exits only if a
    checkpoint holds the weights already, otherwise after the validation. All processes of a run end
    at the same iteration. On GPUs they ask each other only when they read what the steps have left
    there, see `StepValues`: after 2 s or one step, at most 50 steps. If data do not come within
    `PATIENCE`, a process exits without saving.
    """

    priority = "LOWEST"  # after the schedulers' step and the regular checkpoint

    def before_train(self, runner: Runner) -> None:
        self._requested = multiprocessing.RawValue("b")  # shared with the data loading processes
        # At exit torch ends these by SIGTERM, which they ignore while a stop is requested.
        atexit.register(self._set_requested, False)
        self.at_restore(atexit.unregister, self._set_requested)
        self.at_restore(self._set_requested, False)
        self._done = runner.iter  # iterations that the weights were trained for
        self._wait: _Wait | None = None  # None during a step
        self.at_restore(self.end_wait)  # a thread may watch one
        handler = signal.signal(signal.SIGTERM, lambda *_: self._terminate(runner))
        self.at_restore(signal.signal, signal.SIGTERM, handler)
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            initialize = partial(_init_worker, self._requested, loop.dataloader.worker_init_fn)
            self.replace(loop.dataloader, "worker_init_fn", initialize)

    def before_train_epoch(self, runner: Runner) -> None:
        self._wait = _Wait("train")

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self._done = runner.iter + 1
        if self._may_ask(runner):
            self._exit_if_requested(runner, self._done)
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        is_last = batch_idx + 1 == len(loop.dataloader) if by_epoch else self._is_last(runner)
        self._wait = None if is_last else _Wait("train")

    def before_val_epoch(self, runner: Runner) -> None:
        self._wait = _Wait("val")

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self._may_exit_in_val(runner):
            self._exit_if_requested(runner, None)
        self._wait = _Wait("val")

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._wait = None
        self._exit_if_requested(runner, runner.iter)

    def after_val(self, runner: Runner) -> None:
        if not isinstance(runner.train_loop, EpochBasedTrainLoop) and not self._is_last(runner):
            self._wait = _Wait("train")

    def after_train(self, runner: Runner) -> None:
        self._wait = None
        super().after_train(runner)

    def end_wait(self) -> None:
        """The data have come."""
        self._wait = None

    def _may_ask(self, runner: Runner) -> bool:
        """Whether the processes agree in this iteration on a stop; the same in all of them."""
        info = find_runtime_info(runner)
        if get_world_size() == 1 or info is None or info.values.at_once:
            return True
        return info.values.last_read == self._done

    def _is_last(self, runner: Runner) -> bool:
        return self._done >= runner.train_loop.max_iters

    def _may_exit_in_val(self, runner: Runner) -> bool:
        # No checkpoint is saved there: the model may hold averaged weights now, which are not those
        # to go on with. And the processes may have different numbers of validation batches, so
        # they can't all ask for a stop there.
        saved = all(hook.saved_iter == self._done for hook in _checkpoint_hooks(runner))
        return saved and get_world_size() == 1

    def _set_requested(self, requested: bool) -> None:
        self._requested.value = requested

    def _terminate(self, runner: Runner) -> None:
        """Handle SIGTERM: exit if this process waits for data and may, else after the step."""
        self._set_requested(True)
        wait = self._wait
        if wait is None:
            return
        if wait.split == "train" and get_world_size() == 1 or self._may_exit_in_val(runner):
            self._exit_from_wait(runner, self._done if wait.split == "train" else None)
        elif wait.is_late:
            runner.logger.warning(f"no data within {PATIENCE} s after SIGTERM: not saved")
            self._exit_from_wait(runner, None)
        elif not wait.is_watched:
            wait.is_watched = True
            timer = threading.Timer(PATIENCE, self._signal_again, [wait])
            timer.daemon = True
            timer.start()

    def _signal_again(self, wait: _Wait) -> None:
        """Do so if the same wait still lasts: only the main thread can end it."""
        if self._wait is wait:
            wait.is_late = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _exit_from_wait(self, runner: Runner, iteration: int | None) -> None:
        self._wait = None
        self._save(runner, iteration)
        self._exit(runner)

    def _exit_if_requested(self, runner: Runner, iteration: int | None) -> None:
        """Save this iteration, if it is one and no checkpoint holds it yet, and exit."""
        if any_process(bool(self._requested.value)):
            self._save(runner, iteration)
            self._exit(runner)

    def _save(self, runner: Runner, iteration: int | None) -> None:
        for hook in _checkpoint_hooks(runner):
            if iteration and hook.saved_iter != iteration:
                hook.save_now(runner, iteration)

    def _exit(self, runner: Runner) -> None:
        runner.logger.info("ended by SIGTERM; go on with --resume")
        self._set_requested(False)
        kill_loading_processes()
        raise SystemExit(EXIT_CODE)


@HOOKS.register_module()
class ArrivalHook(Hook):
    """Tells `TerminationHook` that data have come, before any other hook of the step runs."""

    priority = "HIGHEST"

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        for hook in runner.hooks:
            if isinstance(hook, TerminationHook):
                hook.end_wait()

    def before_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.before_train_iter(runner)

    def before_val(self, runner: Runner) -> None:
        self.before_train_iter(runner)


@dataclass
class _Wait:
    """A wait for data.

    Attributes:
        split: 'train' or 'val': whose data.
        is_watched: whether a thread waits for the end of `PATIENCE`.
        is_late: whether that time is over.
    """

    split: str
    is_watched: bool = False
    is_late: bool = False


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
