"""Where the kernels run: on the GPU, or in Triton's interpreter if TRITON_INTERPRET=1."""

import os

import pytest
import torch
from helpers.devices import without_tf32


@pytest.fixture
def device():
    """Of the tensors that the kernels get."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        yield torch.device("cpu")
        return
    with without_tf32():
        yield torch.device("cuda")


@pytest.fixture(params=["NCHW", "NHWC"])
def layout(request):
    """A memory format."""
    return {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}[request.param]
