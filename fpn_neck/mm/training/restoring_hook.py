"""What a hook replaces on another object for the time of a training, and puts back after it."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class RestoringHook(Hook):
    """A hook that replaces attributes of other objects in `before_train`.

    `after_train` puts them back. mmengine calls no hook after an error: there `train` does it.
    """

    def __init__(self) -> None:
        self._replaced = ExitStack()

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, until `restore`."""
        if name in vars(owner):
            self.at_restore(setattr, owner, name, vars(owner)[name])
        else:
            self.at_restore(delattr, owner, name)  # the class has it
        setattr(owner, name, value)

    def at_restore(self, function: Callable[..., Any], *args: Any) -> None:
        """Call the function at `restore`; the last one is called first."""
        self._replaced.callback(function, *args)

    def restore(self) -> None:
        """Put everything back; may be called any number of times."""
        self._replaced.close()

    def after_train(self, runner: Runner) -> None:
        self.restore()


def train(runner: Runner) -> None:
    """``runner.train()``; after it, and after an error in it, the hooks have put back everything.

    These are the replaced attributes of the optimizer wrapper, the train loop, the data loaders
    and the data set, and the handler of SIGTERM.
    """
    try:
        runner.train()
    except BaseException:
        kill_loading_processes()
        raise
    finally:
        for hook in runner.hooks:
            if isinstance(hook, RestoringHook):
                hook.restore()


def kill_loading_processes() -> None:
    """End them: nobody needs their batches any more, and one that waits would keep this process.

    torch waits five seconds for each that does not hear of the end, which is the case if an error
    keeps the loader until Python collects garbage. Does nothing where no handler of SIGCHLD can be
    set, as in a thread.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's reports their end as an error
    try:
        loading = [process for process in multiprocessing.active_children() if process.daemon]
        for process in loading:
            process.kill()
        for process in loading:
            process.join(5)
    finally:
        signal.signal(signal.SIGCHLD, handler)
