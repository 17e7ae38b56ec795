"""weights.checkpoints: files are read as plain tensors, or refused without running anything."""

import collections
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from fpn_neck.weights.checkpoints import (
    differences,
    find_state_dict,
    load_checkpoint,
    matching_weights,
)

WEIGHTS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.tensor([1, 2, 3])}
OLD_FORMAT = {"_use_new_zipfile_serialization": False}  # torch < 1.6, and many published files


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Evil:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# Reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "old format"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_torch_file_comes_back_as_it_was_saved(tmp_path, options, as_text):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": WEIGHTS, "epoch": 3}, path, **options)
    checkpoint = load_checkpoint(str(path) if as_text else path)
    assert checkpoint["epoch"] == 3
    assert same(checkpoint["state_dict"], WEIGHTS)


def test_a_safetensors_file_comes_back_as_it_was_saved(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(WEIGHTS, path)
    assert same(load_checkpoint(path), WEIGHTS)


@pytest.mark.parametrize("location", ["cpu", "meta", torch.device("meta")], ids=str)
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_tensors_come_to_the_device_that_is_named(tmp_path, suffix, location):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(WEIGHTS, path)
    else:
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in WEIGHTS.items()}))
    devices = {str(x.device) for x in load_checkpoint(path, location).values()}
    assert devices == {str(location)}


def test_an_optimizer_and_an_ordered_dict_are_plain_enough(tmp_path):
    module = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "epoch_1.pth"
    ordered = collections.OrderedDict(module.state_dict())
    torch.save({"state_dict": ordered, "optimizer": optimizer.state_dict(), "meta": {}}, path)
    assert same(find_state_dict(load_checkpoint(path)), module.state_dict())


# Refusing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch, old format"])
def test_an_evil_file_does_not_run_and_is_refused(tmp_path, writer):
    path, trace = tmp_path / "evil.pth", tmp_path / "it_ran"
    checkpoint = {"state_dict": WEIGHTS, "meta": Evil(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(checkpoint, protocol=2))
    else:
        torch.save(checkpoint, path, **(OLD_FORMAT if "old" in writer else {}))
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read as plain tensors") as refused:
        load_checkpoint(path)
    assert not trace.exists()
    if writer != "pickle":  # says what it asks for, and not torch's advice on how to run it
        assert re.search(r"GLOBAL \S+\.mkdir", str(refused.value))
        assert "weights_only" not in str(refused.value)
    torch.load(path, weights_only=False) if writer != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file would have done it


def test_a_refusal_says_what_the_file_asks_for(tmp_path):
    torch.save({"w": torch.ones(1), "x": np.array([None])}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"Can only build Tensor.*\.ObjectDType") as refused:
        load_checkpoint(tmp_path / "objects.pth")
    assert "weights_only" not in str(refused.value)


def test_a_pickled_module_is_refused_with_the_remedy(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth.*save a state_dict"):
        load_checkpoint(tmp_path / "module.pth")


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, part):
    path = tmp_path / "cut.pth"
    torch.save(WEIGHTS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"cut\.pth.*truncated"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>404: Not Found</body></html>\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 46830571\n",
        b'{"state_dict": {}}',
        bytes(100),
    ],
    ids=["web page", "git-lfs pointer", "json", "zeros"],
)
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"checkpoint .*{name}: no such file"):
        load_checkpoint(tmp_path / name)


# Finding the weights ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "checkpoint",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "meta": {"epoch": 1}, "optimizer": {"state": {}}},
        {"model": WEIGHTS, "scaler": None},
        {"state_dict_ema": WEIGHTS},
        {"model_ema": WEIGHTS, "epoch": 1},
        {"ema_state_dict": WEIGHTS, "epoch": 1},
        {"state_dict": None, "model": WEIGHTS},
        {f"module.{k}": v for k, v in WEIGHTS.items()},
        {"state_dict": {f"module.{k}": v for k, v in WEIGHTS.items()}},
        collections.OrderedDict(WEIGHTS),
        WEIGHTS | {"epoch": 3, "name": "fpn"},
    ],
    ids=[
        "bare",
        "mmengine",
        "model",
        "state_dict_ema",
        "model_ema",
        "ema_state_dict",
        "empty state_dict beside model",
        "DDP",
        "DDP in a checkpoint",
        "OrderedDict",
        "other entries",
    ],
)
def test_weights_are_found(checkpoint):
    before = list(checkpoint)
    assert same(find_state_dict(checkpoint), WEIGHTS)
    assert list(checkpoint) == before


def test_the_trained_weights_come_before_their_average():
    average = {k: v + 1 for k, v in WEIGHTS.items()}
    assert same(find_state_dict({"model_ema": average, "model": WEIGHTS}), WEIGHTS)


def test_module_is_taken_off_once_and_only_in_front():
    x = torch.zeros(1)
    assert list(find_state_dict({"module.module.a": x, "b.module.c": x})) == [
        "module.a",
        "b.module.c",
    ]


@pytest.mark.parametrize("container", ["model_state_dict", "module"])
def test_weights_are_found_where_tutorials_and_deepspeed_keep_them(container):
    assert same(find_state_dict({container: WEIGHTS, "epoch": 1}), WEIGHTS)


@pytest.mark.parametrize("container", ["net", "model_state", "weights", "params_ema"])
def test_the_only_weights_inside_are_found_under_any_name(container):
    others = {"epoch": 1, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}}
    assert same(find_state_dict(others | {container: WEIGHTS}), WEIGHTS)
    assert same(find_state_dict({"model": {container: WEIGHTS}}), WEIGHTS)
    with pytest.raises(ValueError, match=r"several models, \['params', '.*'\]: save"):
        find_state_dict({"params": WEIGHTS, container: WEIGHTS})


def test_the_buffers_of_mmcvs_old_averages_are_no_weights():
    """As its EMAHook writes them; the average itself is under the model's own names."""
    buffers = {f"ema_{key.replace('.', '_')}": value + 1 for key, value in WEIGHTS.items()}
    assert same(find_state_dict({"state_dict": WEIGHTS | buffers}), WEIGHTS)
    own = WEIGHTS | {"ema_other": torch.zeros(1)}
    assert same(find_state_dict(own), own)


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "_fsdp_wrapped_module.{}",
        "_orig_mod._fsdp_wrapped_module._checkpoint_wrapped_module.{}",
    ],
)
def test_names_of_torchs_wrappers_are_taken_off(wrapped):
    assert same(find_state_dict({wrapped.format(k): v for k, v in WEIGHTS.items()}), WEIGHTS)


def test_wrappers_inside_a_model_are_taken_off():
    """What torch itself writes for a compiled part and for the whole."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    expected = model.state_dict()
    model[1] = torch.compile(model[1])
    assert "1._orig_mod.weight" in model.state_dict()
    assert same(find_state_dict(model.state_dict()), expected)
    assert same(find_state_dict(torch.compile(model).state_dict()), expected)
    assert list(find_state_dict({"my_orig_mod.a": torch.zeros(1)})) == ["my_orig_mod.a"]


def test_two_names_that_are_one_without_wrappers_are_refused():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="_orig_mod.a and another name are both 'a'"):
        find_state_dict({"a": x, "_orig_mod.a": x + 1})


def test_the_counter_of_an_average_is_no_weight():
    model = nn.Linear(2, 3)
    average = torch.optim.swa_utils.AveragedModel(model).state_dict()
    assert "n_averaged" in average
    assert same(find_state_dict(average), model.state_dict())
    mmengines = {"steps": torch.tensor(3)} | {f"module.{k}": v for k, v in WEIGHTS.items()}
    assert same(find_state_dict({"ema_state_dict": mmengines}), WEIGHTS)
    own = WEIGHTS | {"steps": torch.tensor(3)}
    assert same(find_state_dict(own), own)  # a model with a buffer of this name


@pytest.mark.parametrize("allow_mismatch", [False, True])
@pytest.mark.parametrize("prefix", ["model.", "net.", "module.module.", "_orig_mod.model.net."])
def test_a_prefix_that_all_names_share_is_taken_off(prefix, allow_mismatch):
    weights = find_state_dict({f"{prefix}{k}": v for k, v in WEIGHTS.items()})
    options = dict(allow_mismatch=allow_mismatch, warn=refuse)
    assert same(matching_weights(WEIGHTS, weights, "a.pth", **options), WEIGHTS)


def test_a_part_of_the_model_that_is_named_like_a_wrapper_is_kept():
    for part in ("module.", "model.", "model.model."):
        model = {f"{part}{k}": v for k, v in WEIGHTS.items()}
        assert same(matching_weights(model, find_state_dict(model), "a.pth"), model)
        wrapped = find_state_dict({f"module.{k}": v for k, v in model.items()})
        assert same(matching_weights(model, wrapped, "a.pth"), model)


@pytest.mark.parametrize("extra", ["criterion.weight", "loss.model.weight", "step"])
def test_a_wrappers_prefix_is_taken_off_beside_a_name_without_it(extra):
    """Lightning's modules hold their losses, too."""
    weights = {extra: torch.zeros(1)} | {f"model.{k}": v for k, v in WEIGHTS.items()}
    with pytest.raises(ValueError, match=rf"another model: 1 left over: {extra} \(1,\)"):
        matching_weights(WEIGHTS, weights, "a.pth")
    told = []
    options = dict(allow_mismatch=True, warn=told.append)
    assert same(matching_weights(WEIGHTS, weights, "a.pth", **options), WEIGHTS)
    assert len(told) == 1 and extra in told[0]


def test_a_wrappers_prefix_is_taken_off_although_another_name_matches_as_it_is():
    model = {name: torch.full((2,), i) for i, name in enumerate("abc")}
    weights = {"a": model["a"], "model.b": model["b"], "model.c": model["c"]}
    assert same(matching_weights(model, weights, "a.pth"), model)
    with pytest.raises(ValueError, match="3 left over: model.b .*; use its own config"):
        matching_weights(model, weights | {"model.a": model["b"]}, "a.pth")  # which of the two?


def test_of_two_wrapped_models_none_is_chosen():
    weights = {f"{part}.{k}": v for part in ("student", "teacher") for k, v in WEIGHTS.items()}
    with pytest.raises(ValueError, match="no tensor matches"):
        matching_weights(WEIGHTS, weights, "a.pth", allow_mismatch=True)


def test_a_wrapped_checkpoint_of_another_model_is_refused_by_the_real_difference():
    weights = {f"model.{k}": v for k, v in WEIGHTS.items()} | {"model.fc": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"another model: 1 left over: fc \(1,\)"):
        matching_weights(WEIGHTS, weights, "a.pth")


@pytest.mark.parametrize(
    "checkpoint",
    [{}, [], None, "weights", torch.zeros(2), {"epoch": 3}, {"state_dict": {}}, {"model": [1]}],
    ids=str,
)
def test_a_checkpoint_without_weights_is_refused(checkpoint):
    with pytest.raises(ValueError, match="no state_dict found.*model"):
        find_state_dict(checkpoint)


# Fitting ----------------------------------------------------------------------------------------


def refuse(text):
    raise AssertionError(f"warned: {text}")


@pytest.mark.parametrize("allow_mismatch", [False, True])
def test_weights_that_fit_are_taken_whole_in_any_order(allow_mismatch):
    weights = dict(reversed(WEIGHTS.items()))
    taken = matching_weights(WEIGHTS, weights, "a.pth", allow_mismatch=allow_mismatch, warn=refuse)
    assert same(taken, WEIGHTS)


MISMATCHES = pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"conv.bias": None}, r"1 missing: conv\.bias \(3,\)"),
        ({"fc.weight": torch.zeros(1)}, r"1 left over: fc\.weight \(1,\)"),
        ({"conv.bias": torch.zeros(4)}, r"1 of another shape: conv\.bias \(4,\) for \(3,\)"),
        (
            {"conv.bias": torch.zeros(3, 1), "x": torch.zeros(1)},
            r"1 left over: x \(1,\); 1 of another shape: conv\.bias \(3, 1\) for \(3,\)",
        ),
    ],
    ids=["missing", "left over", "shape", "two"],
)


@MISMATCHES
def test_weights_of_another_model_are_refused_with_the_findings(changes, finding):
    weights = {k: v for k, v in (WEIGHTS | changes).items() if v is not None}
    with pytest.raises(ValueError, match=rf"a\.pth is of another model: {finding}; use its own"):
        matching_weights(WEIGHTS, weights, "a.pth")


@MISMATCHES
def test_what_fits_is_taken_where_a_mismatch_is_allowed(changes, finding):
    weights = {k: v for k, v in (WEIGHTS | changes).items() if v is not None}
    with pytest.warns(UserWarning, match=rf"a\.pth: [12] tensors loaded; {finding}$"):
        taken = matching_weights(WEIGHTS, weights, "a.pth", allow_mismatch=True)
    assert same(taken, {k: v for k, v in WEIGHTS.items() if k not in changes or k == "x"})


@pytest.mark.parametrize("allow_mismatch", [False, True])
def test_weights_of_which_nothing_fits_are_refused(allow_mismatch):
    weights = {"conv.bias": torch.zeros(4), "x": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"a\.pth.*1 missing.*1 left over.*1 of another shape"):
        matching_weights(WEIGHTS, weights, "a.pth", allow_mismatch=allow_mismatch)


def test_many_differences_are_counted_by_part_and_a_few_named():
    model = {f"backbone.{i}": torch.zeros(i) for i in range(240)}
    model |= {f"neck.{i}": torch.zeros(i) for i in range(16)} | {"head": torch.zeros(2)}
    found = differences(model, {"head": torch.zeros(2)})
    assert found == (
        "256 missing (backbone 240, neck 16): "
        "backbone.0 (0,), backbone.1 (1,), backbone.2 (2,) and 253 more"
    )


def test_counters_of_batch_norm_may_be_missing():
    """Checkpoints of torch 0.4 and converted ones have none."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    weights = {k: v + 1 for k, v in model.state_dict().items() if "num_batches" not in k}
    assert len(weights) == 6
    assert not differences(model.state_dict(), weights)
    model.load_state_dict(matching_weights(model.state_dict(), weights, "a.pth"))
    assert same({k: model.state_dict()[k] for k in weights}, weights)


@pytest.mark.parametrize("cut", range(0, 500, 7))
def test_a_truncated_file_of_the_old_format_is_refused(tmp_path, cut):
    """torch.load itself raises struct.error or IndexError for some lengths."""
    path = tmp_path / "cut.pth"
    torch.save(WEIGHTS, path, **OLD_FORMAT)
    data = path.read_bytes()
    assert len(data) > cut
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello world", b"h\xe9llo", b"not found\n"])
def test_a_short_text_is_refused(tmp_path, content):
    """torch's unpickler reads the first letters as opcodes, and raises KeyError."""
    path = tmp_path / "text.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.pth"):
        load_checkpoint(path)


def test_damaged_names_in_a_zip_are_refused_by_file(tmp_path):
    """torch.load's UnicodeDecodeError is a ValueError, but doesn't name the file."""
    whole, path = tmp_path / "whole.pth", tmp_path / "damaged.pth"
    torch.save(WEIGHTS, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"conv.weight", b"conv\xff\xfeweigh"))
    with pytest.raises(ValueError, match=r"damaged\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello world", bytes(100), b"\xff" * 20])
def test_a_broken_safetensors_file_is_refused(tmp_path, content):
    """safetensors' own error is not a ValueError."""
    pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        load_checkpoint(path)


def test_a_mapping_of_numbers_to_tensors_is_refused():
    with pytest.raises(ValueError, match="no state_dict found"):
        find_state_dict({0: torch.zeros(1)})


def test_what_is_no_checkpoint_by_its_name(tmp_path):
    (tmp_path / "run.py").write_text("model = dict()")
    with pytest.raises(ValueError, match=r"run\.py is a config: name a checkpoint"):
        load_checkpoint(tmp_path / "run.py")
    with pytest.raises(FileNotFoundError, match="is a folder: name a file in it"):
        load_checkpoint(tmp_path)
