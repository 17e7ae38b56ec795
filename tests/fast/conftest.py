"""Lets the fast paths run on maps of a few pixels."""

import pytest
import torch

from fpn_neck.fast.cpu import conv3x3, winograd


@pytest.fixture
def any_size(monkeypatch):
    """No map is too small or too narrow for the fast paths."""
    monkeypatch.setattr(conv3x3, "LEAST_MULTIPLY_ADDS", 0)


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    """Torch may use that many, and every map is large enough to be shared by rows."""
    monkeypatch.setattr(winograd, "LEAST_TILES_ALONE", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
