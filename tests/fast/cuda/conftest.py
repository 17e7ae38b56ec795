"""Where the kernels run: on the GPU, or in Triton's interpreter if TRITON_INTERPRET=1."""

import os

import pytest
import torch


@pytest.fixture
def device(monkeypatch):
    """Of the tensors that the kernels get; torch's float32 is float32 there, not TF32."""
    for setting in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(setting, "allow_tf32", False)
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


@pytest.fixture(params=["NCHW", "NHWC"])
def layout(request):
    """A memory format."""
    return {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}[request.param]
