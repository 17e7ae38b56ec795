"""Runs the tests of the fast paths with several numbers of threads."""

import pytest
import torch

from fpn_neck.fast.cpu import winograd


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    """Torch may use that many, and every map is large enough to be shared by rows."""
    monkeypatch.setattr(winograd, "LEAST_TILES_PER_THREAD", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
