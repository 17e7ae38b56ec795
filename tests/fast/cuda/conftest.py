"""Where the kernels run: on the GPU, or in Triton's interpreter if TRITON_INTERPRET=1."""

import os

import pytest
import torch


@pytest.fixture
def device():
    """Of the tensors that the kernels get."""
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


@pytest.fixture(params=["NCHW", "NHWC"])
def layout(request):
    """A memory format."""
    return {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}[request.param]
