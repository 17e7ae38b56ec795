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
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fpn_neck.mm.distributed.agreement import any_process
from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.checkpoint_hook import CheckpointHook

EXIT_CODE = 128 + signal.SIGTERM  # 143, as of a process that didn't catch it


@HOOKS.register_module()
class TerminationHook(Hook):
    """On SIGTERM, ends the iteration, saves a checkpoint and exits with code 143.

    During validation a single process exits at once where the weights are in a checkpoint already;
    else after the validation. All processes of a run end at the same iteration.
    """

    priority = "LOWEST"  # after the schedulers' step and the regular checkpoint

    def before_train(self, runner: Runner) -> None:
        self._asked = multiprocessing.RawValue("b")  # known to the data loading processes
        atexit.register(self._ask, False)
        self._before = signal.signal(signal.SIGTERM, lambda *_: self._ask(True))
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            begin = partial(_begin_worker, self._asked, loop.dataloader.worker_init_fn)
            loop.dataloader.worker_init_fn = begin

    def after_train(self, runner: Runner) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # The model may hold averaged weights now, which are not those to go on with; and several
        # processes may have different numbers of batches, and not meet here.
        saved = all(hook.saved_iter == runner.iter for hook in _checkpoint_hooks(runner))
        if saved and get_world_size() == 1:
            self._stop_if_asked(runner, None)

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._stop_if_asked(runner, runner.iter)

    def _ask(self, asked: bool) -> None:
        self._asked.value = asked

    def _stop_if_asked(self, runner: Runner, save: int | None) -> None:
        if not any_process(bool(self._asked.value)):
            return
        for hook in _checkpoint_hooks(runner):
            if save and hook.saved_iter != save:
                hook.save_now(runner, save)
        runner.logger.info("ended by SIGTERM; go on with --resume")
        self._ask(False)
        raise SystemExit(EXIT_CODE)


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _begin_worker(asked: Any, then: Callable[[int], None] | None, worker: int) -> None:
    """Begin a data loading process that outlives a SIGTERM which the main process got as well.

    Schedulers send it to all, and the main one may need a last batch before it saves. Where the
    main process got none, or is too busy to tell, it has its batch, or has no need of one.
    """

    def stay_or_end(*args: Any) -> None:
        for _ in range(200):
            if asked.value:
                return
            time.sleep(0.01)
        os._exit(0)  # any other code is an error to torch

    signal.signal(signal.SIGTERM, stay_or_end)
    if then:
        then(worker)
