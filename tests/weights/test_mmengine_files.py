"""weights.mmengine_files: mmengine's checkpoints load without mmengine, and still run no code."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fpn_neck.weights.checkpoints import load_checkpoint

WITHOUT_MMENGINE = "import sys\nsys.modules['mmengine'] = None\n"  # an import of it then fails


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def history():
    pytest.importorskip("mmengine")
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer


@pytest.fixture
def checkpoint(history, tmp_path):
    """What mmengine 0.10 puts in a checkpoint beside the weights."""
    info = {"best": np.float64(1.5), "iter": np.int64(3), "flag": np.bool_(True), "name": "a"}
    hub = {"log_scalars": {"train/loss": history([1.0, 2.0], [1, 3])}, "runtime_info": info}
    content = {"state_dict": {"w": torch.ones(2)}, "message_hub": hub, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "mmengine.pth")
    return tmp_path / "mmengine.pth"


READ = """
import copy
from fpn_neck.weights.checkpoints import load_checkpoint

def show(content):
    values, counts = content["message_hub"]["log_scalars"]["train/loss"].data
    info = content["message_hub"]["runtime_info"]
    print(content["state_dict"]["w"].tolist(), values.tolist(), counts.tolist(), *info.values())

content = load_checkpoint(PATH)
show(content)
show(copy.deepcopy(content))
"""


@pytest.mark.parametrize("opening", [WITHOUT_MMENGINE, "import mmengine.logging\n", ""])
def test_a_checkpoint_of_mmengine_is_read(run_python, checkpoint, opening):
    out = run_python(f"{opening}PATH = {str(checkpoint)!r}\n{READ}")
    assert out.splitlines() == ["[1.0, 1.0] [1.0, 2.0] [1, 3] 1.5 3 True a"] * 2


@pytest.mark.parametrize("kind", ["plain", "mmengine"])
def test_reading_does_not_import_mmengine(run_python, checkpoint, tmp_path, kind):
    torch.save({"w": torch.ones(1)}, tmp_path / "plain.pth")
    out = run_python(
        "import sys\n"
        "from fpn_neck.weights.checkpoints import load_checkpoint\n"
        f"load_checkpoint({str(tmp_path / kind)!r} + '.pth')\n"
        "print([name for name in sys.modules if name.startswith('mmengine')])\n"
    )
    assert out == "[]\n"


def test_an_imported_mmengine_gets_its_own_class(history, checkpoint):
    content = load_checkpoint(checkpoint)
    buffer = content["message_hub"]["log_scalars"]["train/loss"]
    assert type(buffer) is history
    buffer.update(4.0)
    assert buffer.statistics("current") == 4.0


@pytest.mark.parametrize("opening", ["", WITHOUT_MMENGINE])
def test_a_file_may_only_look_up_statistics(history, run_python, tmp_path, opening):
    evil = {
        "open": Call(open, str(tmp_path / "executed"), "w"),
        "method": Call(getattr, history, "register_statistics"),
        "dunder": Call(getattr, history, "__init__"),
        "class": Call(getattr, dict, "get"),
        "object": Call(getattr, history([1.0], [1]), "mean"),
        "array": Call(np.ndarray, (1,), "O", b"\x01" * 8),  # would take bytes for addresses
        "nested": Call(getattr, Call(getattr, history, "mean"), "__globals__"),
    }
    for name, content in evil.items():
        torch.save({"w": content}, tmp_path / f"{name}.pth")
    out = run_python(
        f"{opening}from fpn_neck.weights.checkpoints import load_checkpoint\n"
        f"for name in {list(evil)!r}:\n"
        "    try:\n"
        f"        load_checkpoint({str(tmp_path)!r} + f'/{{name}}.pth')\n"
        "    except ValueError:\n"
        "        print(name)\n"
    )
    assert out.split() == list(evil)
    assert not (tmp_path / "executed").exists()


def test_threads_do_not_take_each_others_permission(checkpoint):
    with ThreadPoolExecutor(4) as pool:
        for content in pool.map(load_checkpoint, [checkpoint] * 100):
            assert content["message_hub"]["runtime_info"]["iter"] == 3


def test_nothing_stays_allowed(checkpoint):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


def test_what_a_user_has_allowed_stays_allowed(checkpoint):
    with torch.serialization.safe_globals([np.dtype]):
        load_checkpoint(checkpoint)
        assert np.dtype in torch.serialization.get_safe_globals()
