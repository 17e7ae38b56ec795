"""A hook for any mmengine training: seconds per iteration and what the GPU does meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fpn_neck.utils.files import write_whole


@HOOKS.register_module()
class StopwatchHook(Hook):
    """Ends the training after a while and writes what it measured, as JSON.

    Measured are iterations per second, between two synchronisations with the GPU; torch's peak
    memory; the time of the loader; and, in some iterations more under torch's profiler, the time in
    which the GPU works.

    Args:
        path: the file.
        seconds: to measure for.
        warm_up: iterations before.
        profiled: iterations after.
    """

    priority = "LOWEST"

    def __init__(self, path: str, seconds: float, warm_up: int = 20, profiled: int = 10) -> None:
        self.path, self.seconds = Path(path), seconds
        self.warm_up, self.profiled = warm_up, profiled
        self.begin = self.profiler = None
        self.done, self.results = 0, {}

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.begin is None:
            if self.done >= self.warm_up:
                self._begin()
        elif self.profiler is None:
            if time.perf_counter() - self.begin >= self.seconds:
                self._end(runner)
        elif self.done == self.profiled:
            self._end_profile()
            write_whole(self.path, lambda path: path.write_text(json.dumps(self.results)))
            runner.train_loop.stop_training = True

    def _begin(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.begin, self.done = _now(), 0

    def _end(self, runner: Runner) -> None:
        waited = runner.message_hub.get_scalar("train/data_time").mean(self.done)
        self.results = {
            "iterations": self.done,
            "seconds": (_now() - self.begin) / self.done,
            "seconds of the loader": float(waited),
        }
        if torch.cuda.is_available():
            self.results["peak MiB"] = torch.cuda.max_memory_allocated() / 2**20
        self.done = 0
        on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[*on_gpu, ProfilerActivity.CPU])
        self.profiler.start()

    def _end_profile(self) -> None:
        _now()
        self.profiler.stop()
        if not torch.cuda.is_available():
            return
        events = [e for e in self.profiler.key_averages() if e.device_type == DeviceType.CUDA]
        kernels = [e for e in events if not e.is_user_annotation]  # such as the optimizer's step
        busy = sum(e.self_device_time_total for e in kernels) / 1e6 / self.profiled
        self.results |= {
            "seconds of the GPU": busy,
            "GPU busy": busy / self.results["seconds"],
            "kernels": sum(e.count for e in kernels) / self.profiled,
        }


def _now() -> float:
    """After all the GPU has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
