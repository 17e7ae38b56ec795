import pytest
import torch


@pytest.fixture
def random():
    """A generator of float64 tensors: random(2, 3) is uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
