"""Runs the tests of the fast paths with several numbers of threads."""

import pytest
import torch


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """Torch may use that many."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
