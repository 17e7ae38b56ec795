"""What the tests of the fast paths share; a pytest plugin, see tests/conftest.py."""

import pytest
import torch

from fpn_neck.fast.cpu import processor
from fpn_neck.fast.cpu.processor import Limit, Limits

# Relative to the largest value of the reference in float64. Measured in float32: 3e-6 at 256
# channels, where the direct convolution has 3e-7. The short types round.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# Where every operator rounds: torch's own, and those of a GPU.
ROUNDING = TOLERANCE | {torch.bfloat16: 2e-2, torch.float16: 4e-3}


def assert_close(ours, expected, tolerance):
    """Largest absolute difference over the largest absolute value."""
    assert ours.shape == expected.shape
    scale = expected.abs().max().item()
    torch.testing.assert_close(ours.double(), expected.double(), atol=tolerance * scale, rtol=0)


def set_limits(monkeypatch, **changes):
    """From where on the fast 3x3 runs: everywhere, with MKL's products, but for the changes."""
    any_size = Limit(multiply_adds=0, of_image=0)
    everywhere = Limits(any_size, any_size)
    monkeypatch.setattr(processor, "limits", lambda: everywhere._replace(**changes))
    monkeypatch.setattr(processor, "LEAST_MULTIPLY_ADDS", 0)


@pytest.fixture
def any_size(monkeypatch):
    """No map is too small, too narrow or too short in its dtype for the fast paths."""
    set_limits(monkeypatch)
