"""weights.array_pickles: detectron2's zoo files are read; whatever asks for code is refused."""

import _codecs
import builtins
import collections
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "steps": np.array(7, dtype=np.int64),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
AUTHOR = {"__author__": "Detectron2 Model Zoo", "matching_heuristics": True}


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("mapping", [dict, collections.OrderedDict])
def test_arrays_become_tensors_of_their_dtype(tmp_path, protocol, mapping):
    path = write(tmp_path / "model.pkl", {"model": mapping(ARRAYS), **AUTHOR}, protocol)
    checkpoint = load_checkpoint(path)
    assert checkpoint["__author__"] == AUTHOR["__author__"]
    state = find_state_dict(checkpoint)
    assert list(state) == list(ARRAYS)
    for name, array in ARRAYS.items():
        torch.testing.assert_close(state[name], torch.from_numpy(array.copy()), atol=0, rtol=0)
        state[name].add_(1)  # the tensor is its own memory


def test_a_file_of_python_2_is_read(tmp_path):
    """Its strings are byte strings and its numpy is numpy 1's, as in the older zoo files."""
    data = struct.pack("<2f", 1.5, -2.0)
    path = tmp_path / "model.pkl"
    path.write_bytes(
        b"\x80\x02}U\x05model}U\x01a"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02\x85cnumpy\ndtype\n(U\x02f4K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + data + b"tbss."
    )
    assert find_state_dict(load_checkpoint(path))["a"].tolist() == [1.5, -2.0]


class Call:
    """Its pickle calls a function where it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["beside", "inside an array"])
@pytest.mark.parametrize(
    "function",
    [os.mkdir, builtins.eval, builtins.getattr, np.load, np.fromfile],
    ids=lambda function: function.__name__,
)
def test_a_file_that_asks_for_code_does_not_run_and_is_refused(tmp_path, function, place, protocol):
    trace = tmp_path / "it_ran"
    arguments = {
        os.mkdir: (str(trace),),
        builtins.eval: (f"__import__('os').mkdir({str(trace)!r})",),
        builtins.getattr: (np.ndarray, "tofile"),
    }
    evil = Call(function, *arguments.get(function, (str(trace),)))
    if place == "inside an array":
        array = np.empty(1, dtype=object)
        array[0] = evil
        evil = array
    path = write(tmp_path / "evil.pkl", {"model": {**ARRAYS, "evil": evil}}, protocol)
    with pytest.raises(ValueError, match=r"evil\.pkl cannot be read.*asks for"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("codec", ["zip", "hex", "utf-8", "rot13"])
def test_bytes_come_through_one_codec_only(tmp_path, codec):
    path = write(tmp_path / "evil.pkl", {"model": {"a": Call(_codecs.encode, "x", codec)}})
    with pytest.raises(ValueError, match="codec"):
        load_checkpoint(path)


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, part):
    path = write(tmp_path / "cut.pkl", {"model": ARRAYS})
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"cut\.pkl"):
        load_checkpoint(path)


@pytest.mark.parametrize("array", [np.array(["text"]), np.zeros(2, "m8[s]")], ids=["text", "time"])
def test_arrays_that_torch_has_no_dtype_for_are_refused(tmp_path, array):
    with pytest.raises(ValueError, match=r"odd\.pkl"):
        load_checkpoint(write(tmp_path / "odd.pkl", {"model": {"a": array}}))


class Addresses:
    """Pickles as an array of objects whose addresses are the file's own bytes."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"\x01" * 8)


def test_bytes_do_not_become_addresses(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": Addresses()}}, protocol=2))
    with pytest.raises(ValueError, match="numpy.ndarray"):
        load_checkpoint(path)
