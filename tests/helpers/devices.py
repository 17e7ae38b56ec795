"""The devices that a test runs on: the CPU, and a GPU if there is one; a pytest plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
# For what has faster tests on the CPU elsewhere: parametrize("device", SLOW_ON_CPU, indirect=True)
SLOW_ON_CPU = [pytest.param("cpu", marks=pytest.mark.slow), CUDA]


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> Iterator[str]:
    """'cpu', then 'cuda', where float32 is float32: without TF32."""
    if request.param == "cpu":
        yield "cpu"
        return
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    with without_tf32():
        yield "cuda"


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let a GPU's float32 be float32."""
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = False
    yield
    for setting, allowed in zip(settings, before, strict=True):
        setting.allow_tf32 = allowed


def replayable(call: Callable[[], Tensor | Sequence[Tensor]], device: str) -> Callable:
    """A call that repeats the work on new contents of the same tensors.

    On a GPU it is a CUDA graph: what waits for the GPU or allocates on the host can't be captured.
    On the CPU it is ``call``.
    """
    if device == "cpu":
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries initialise themselves, kernels are compiled
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor | Sequence[Tensor]:
        graph.replay()
        return result

    return replay


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of torch's own memory that a call has at most, its result included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():  # in the order of time
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
