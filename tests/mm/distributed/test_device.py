"""--device of train and test: the device that mmengine's Runner takes."""

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.device import get_device  # noqa: E402
from mmengine.device import utils as mmengine_device  # noqa: E402

from fpn_neck.mm.distributed.launch import use_device  # noqa: E402

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def a_machine_with_a_gpu(monkeypatch):
    """What mmengine finds there when it is imported; it is set back after the test."""
    monkeypatch.setattr(mmengine_device, "DEVICE", "cuda")


def test_cpu_is_taken_beside_a_gpu_and_auto_leaves_mmengines_choice():
    use_device("auto", "none")
    assert get_device() == "cuda"
    use_device("cpu", "pytorch")
    assert get_device() == "cpu"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_taken_by_its_number(monkeypatch):
    monkeypatch.setattr(mmengine_device, "DEVICE", "cpu")
    use_device("cuda:0", "none")
    assert get_device() == "cuda" and torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        use_device("cuda:0", "pytorch")


@without_gpu
@pytest.mark.parametrize("verb", ["train", "test"])
def test_a_gpu_that_is_not_there_is_refused(call_tool, assert_refused, tmp_path, verb):
    config = tmp_path / "config.py"
    config.write_text("model = dict()")
    options = [tmp_path / "model.pth"] if verb == "test" else []
    done = call_tool(verb, config, *options, "--device", "cuda:3")
    assert_refused(done, "device='cuda:3' is not there", "try 'cpu'")
    assert list(tmp_path.iterdir()) == [config]
