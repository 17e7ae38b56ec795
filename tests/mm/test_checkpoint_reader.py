"""mmengine reads files and downloads by our reader: without code, on the CPU by default."""

import functools
import http.server
import os
import threading

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.model import BaseModule  # noqa: E402
from mmengine.runner import CheckpointLoader, checkpoint  # noqa: E402

from fpn_neck.mm.checkpoint_reader import read_files_safely, read_urls_safely  # noqa: E402


class Evil:
    """Its pickle makes a folder where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(autouse=True)
def readers(monkeypatch, tmp_path):
    """Both readers for one test, with a folder for downloads."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    monkeypatch.setattr(checkpoint, "load_url", checkpoint.load_url)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    read_files_safely()
    read_urls_safely()


@pytest.fixture
def evil(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": Evil(tmp_path / "ran")}, path)
    return path


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}}, path)
    return path


@pytest.fixture
def address(tmp_path):
    """Where the files of ``tmp_path`` are served on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_that_a_config_names_runs_nothing(evil):
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read as plain tensors"):
        CheckpointLoader.load_checkpoint(str(evil))
    assert not (evil.parent / "ran").exists()
    torch.load(evil, weights_only=False)
    assert (evil.parent / "ran").exists()  # it would have


def test_pretrained_weights_of_a_backbone_run_nothing(evil):
    module = BaseModule(init_cfg=dict(type="Pretrained", checkpoint=str(evil)))
    with pytest.raises(ValueError, match=r"evil\.pth"):
        module.init_weights()
    assert not (evil.parent / "ran").exists()


def test_a_download_runs_nothing(address, evil):
    words = r"^http://.*/evil\.pth: checkpoint .*evil\.pth cannot be read as plain tensors"
    with pytest.raises(ValueError, match=words):
        CheckpointLoader.load_checkpoint(f"{address}/evil.pth")
    assert not (evil.parent / "ran").exists()
    torch.hub.load_state_dict_from_url(f"{address}/evil.pth", weights_only=False)
    assert (evil.parent / "ran").exists()


def test_a_download_is_kept_in_the_folder_of_torch(address, good):
    content = CheckpointLoader.load_checkpoint(f"{address}/good.pth?download=1")
    assert content["state_dict"]["w"] == 1
    good.unlink()
    for load in (CheckpointLoader.load_checkpoint, torch.hub.load_state_dict_from_url):
        assert load(f"{address}/good.pth")["state_dict"]["w"] == 1


def test_a_missing_file_and_a_missing_download(address, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "gone.pth"))
    with pytest.raises(OSError, match="404"):
        CheckpointLoader.load_checkpoint(f"{address}/gone.pth")


def test_tensors_come_to_the_cpu_or_where_they_are_wanted(address, good):
    for name in (str(good), f"{address}/good.pth"):
        for location, device in ((None, "cpu"), ("cpu", "cpu"), ("meta", "meta")):
            content = CheckpointLoader.load_checkpoint(name, map_location=location)
            assert content["state_dict"]["w"].device.type == device


# Prints what importing fpn_neck.registry changes in other packages.
CHANGES = """
import sys, types, warnings
import torch, mmengine.config.utils, mmengine.hub, mmengine.registry, mmengine.runner
from mmengine.runner.checkpoint import CheckpointLoader

def snapshot():
    found = {
        "MODULE2PACKAGE": dict(mmengine.config.utils.MODULE2PACKAGE),
        "warnings": list(warnings.filters),
        "safe globals": set(torch.serialization.get_safe_globals()),
        "finders": list(sys.meta_path),
    }
    found |= {("scheme", k): v for k, v in CheckpointLoader._schemes.items()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("mmengine", "torch"):
            for key, value in list(vars(module).items()):
                if not isinstance(value, types.ModuleType) and not key.startswith("__"):
                    found[name, key] = id(value)
                    if isinstance(value, type):
                        found |= {(name, key, k): id(v) for k, v in vars(value).items()}
                        found.pop((name, key, "_schemes"), None)  # compared by its items
    return found

calls = []
register = CheckpointLoader._register_scheme.__func__
CheckpointLoader._register_scheme = classmethod(
    lambda cls, *args, **kwargs: calls.append(args) or register(cls, *args, **kwargs)
)
before = snapshot()
import fpn_neck
loaded = snapshot()
import fpn_neck.registry
after = snapshot()
assert after == {**loaded, **after}
assert len(before) > 1000
changed = {key for key in before if before[key] != after.get(key)}
changed = {key[-2:] if len(key) == 3 else key for key in changed}  # a class has many names
print(sorted(map(str, changed - {"finders"})), len(calls))
assert not [f for f in sys.meta_path if "on_import" in getattr(f, "__module__", "")]
"""
LATER = """
import sys
import fpn_neck
assert not [name for name in sys.modules if name.startswith("mmengine")]
import torch
import mmengine.runner
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint

history = HistoryBuffer()
history.update(2.0)
model = torch.nn.Linear(2, 1)
torch.save({"state_dict": model.state_dict(), "message_hub": {"loss": history}}, PATH)
assert load_checkpoint(model, PATH)["message_hub"]["loss"].mean() == 2
spec = mmengine.runner.checkpoint.__spec__
assert spec.loader.get_source(spec.name).startswith("# Copyright")
print(CheckpointLoader._schemes[""].__module__)
"""


def test_importing_the_package_changes_these_things_once(run_python):
    assert run_python(CHANGES).splitlines()[-1] == (
        """["('Config', '_get_cfg_path')", "('scheme', '')", 'MODULE2PACKAGE'] 1"""
    )


def test_importing_the_package_first_is_enough(run_python, tmp_path):
    out = run_python(f"PATH = {str(tmp_path / 'model.pth')!r}\n{LATER}")
    assert out.splitlines()[-1] == "fpn_neck.mm.checkpoint_reader"
