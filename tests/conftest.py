"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

# Scenes, tiny configs and ways to call the tools; maps of any size for the fast paths; CPU and GPU.
pytest_plugins = ["helpers.tools", "helpers.fast_paths", "helpers.devices"]

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each; for what the tests start, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

TOLERANCE = 1e-5  # of every parity test: largest absolute difference in float32, no relative part


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def process_as_before():
    """A test file leaves no default scope, logger or handler of SIGTERM to the next one."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    if "mmengine.registry" in sys.modules:
        sys.modules["mmengine.registry"].DefaultScope._instance_dict.clear()
    if "mmengine.logging" in sys.modules:
        sys.modules["mmengine.logging"].MMLogger._instance_dict.clear()


@pytest.fixture
def assert_parity():
    """See `_assert_parity`."""
    return _assert_parity


@pytest.fixture
def shake():
    """See `_shake`."""
    return _shake


@pytest.fixture
def run_python():
    """Run code in a fresh interpreter and return its standard output."""

    def run(code: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def exact_drawing():
    """mmengine draws a photo to the pixel; with matplotlib 3.10 each time a row higher."""
    import numpy as np
    from mmengine.visualization import Visualizer

    photo = np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3)
    canvas = Visualizer()
    canvas.set_image(photo)
    if not np.array_equal(canvas.get_image(), photo):
        pytest.skip("mmengine's pictures are moved by a pixel, with this matplotlib")


def _shake(module):
    """Move every bias, norm weight and statistic away from its 0 or 1, or a swap goes unseen."""
    with torch.no_grad():
        for t in [*module.parameters(), *module.buffers()]:
            if t.is_floating_point() and t.dim() == 1:
                t.add_(torch.rand_like(t))


def _assert_parity(ours, theirs, inputs, *, convert=dict, call=None):
    """Shake theirs, copy the weights into ours, strictly, and compare what a training step sees.

    Compared are the outputs, the gradients of every input and of every parameter, and the buffers
    afterwards (batch norm's statistics), to 1e-5 in float32 with no relative part. The
    outputs' cotangents are random and of norm 1, which leaves the gradients of order 1.

    Args:
        inputs: list of maps.
        convert: {their name: tensor} -> {our name: tensor}; for weights and for gradients.
        call: theirs, inputs -> list of outputs; None means ``theirs(inputs)``.
    """
    _shake(theirs)
    ours.load_state_dict(convert(theirs.state_dict()), strict=True)
    outputs, input_grads, grads = _step(ours, ours, inputs)
    their_forward = theirs if call is None else lambda maps: call(theirs, maps)
    their_outputs, their_input_grads, their_grads = _step(their_forward, theirs, inputs)

    _assert_close("output", outputs, their_outputs)
    _assert_close("gradient of input", input_grads, their_input_grads)
    their_grads = convert(their_grads)
    assert set(grads) == set(their_grads)
    _assert_close("gradient of", grads, {n: their_grads[n] for n in grads})
    their_state = convert(theirs.state_dict())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, their_state[name], atol=TOLERANCE, rtol=0)


def _step(forward, module, inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = forward(leaves)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (y * torch.randn(y.shape, generator=generator)).sum() / y.numel() ** 0.5 for y in outputs
    )
    loss.backward()
    grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return dict(enumerate(outputs)), {i: x.grad for i, x in enumerate(leaves)}, grads


def _assert_close(what, ours, theirs):
    assert list(ours) == list(theirs)
    for name, a in ours.items():
        b, where = theirs[name], f"{what} {name}"
        assert (a is None) == (b is None), f"{where}: only one side has it"
        if b is None:
            continue
        assert b.abs().max() > 1e-3, f"{where}: nothing to compare, all zero"
        torch.testing.assert_close(
            a, b, atol=TOLERANCE, rtol=0, msg=lambda m, where=where: f"{where}: {m}"
        )
