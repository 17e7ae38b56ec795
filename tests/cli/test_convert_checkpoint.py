"""tools/convert_checkpoint.py: what it writes, what it prints, what it refuses."""

import pickle

import numpy as np
import pytest
import torch

from fpn_neck import FPN, SegHead
from fpn_neck.weights.checkpoints import load_checkpoint

for package in ("mmengine", "torchvision"):
    pytest.importorskip(package, reason=f"{package} is not installed")

CHANNELS, WIDTH = [8, 16, 24, 40], 32
META = {"dataset_meta": {"classes": ["sky", "tree"], "palette": [[0, 0, 1], [2, 3, 4]]}}


def named(prefix, module):
    return {prefix + k: v for k, v in module.state_dict().items()}


@pytest.fixture
def convert(call_tool, tmp_path):
    """Save weights, convert them; returns the finished tool and the path of OUT."""

    def run(content, source, target, *flags, name="in.pth", out="out.pth"):
        path = content
        if not hasattr(content, "suffix"):
            path = tmp_path / name
            torch.save(content, path)
        out = tmp_path / out
        done = call_tool("convert_checkpoint", path, out, "--from", source, "--to", target, *flags)
        leftovers = {p.name for p in tmp_path.iterdir()} - {path.name, out.name}
        assert not leftovers, leftovers
        return done, out

    return run


def section(done, heading):
    """The lines under a heading of the report, and the number it states."""
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{heading}: "))
    keys = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        keys.append(line.strip())
    assert lines[start].partition(" (")[0] == f"{heading}: {len(keys)}"
    return keys


@pytest.mark.parametrize("target", ["torchvision", "detectron2", "mmseg"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_each_target_gets_the_form_it_loads(convert, target, dtype):
    fpn = FPN(CHANNELS, WIDTH).to(dtype)
    done, out = convert({"state_dict": named("neck.", fpn), "meta": META}, "mmdet", target)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"16 keys written: {out}"
    content = torch.load(out, weights_only=True)
    state = {"mmseg": "state_dict", "detectron2": "model"}.get(target)
    state = content[state] if state else content
    assert len(state) == 16
    assert {v.dtype for v in state.values()} == {dtype}
    if target == "torchvision":
        from torchvision.ops import FeaturePyramidNetwork

        theirs = FeaturePyramidNetwork(CHANNELS, WIDTH).to(dtype)
        theirs.load_state_dict({k.removeprefix("backbone.fpn."): v for k, v in state.items()})
        assert torch.equal(theirs.inner_blocks[2][0].weight, fpn.lateral_convs[2].conv.weight)
    elif target == "detectron2":
        assert torch.equal(state["backbone.fpn_output3.bias"], fpn.fpn_convs[1].conv.bias)
    else:
        assert content["meta"] == META


def test_the_report_names_every_key(convert):
    state = named("neck.", FPN(CHANNELS, WIDTH, smooth="chained"))
    state |= {"rpn_head.rpn_conv.weight": torch.ones(1), "neck.gate": torch.ones(1)}
    done, out = convert(state, "mmdet", "torchvision", "--allow-unmapped")
    assert done.returncode == 0, done.stderr
    assert "neck.lateral_convs.0.conv.bias -> backbone.fpn.inner_blocks.0.0.bias" in section(
        done, "mapped"
    )
    assert section(done, "ignored") == ["rpn_head.rpn_conv.weight"]
    unmapped, missing = section(done, "unmapped"), section(done, "missing")
    assert {line.partition(": ")[0] for line in unmapped} == {
        "neck.gate",
        *(f"neck.fpn_convs.{i}.conv.{kind}" for i in range(3) for kind in ("weight", "bias")),
    }
    assert {line.partition(": ")[0] for line in missing} == {
        f"backbone.fpn.layer_blocks.{i}.0.{kind}" for i in range(4) for kind in ("weight", "bias")
    }
    assert all("3x3" in line for line in missing)
    assert len(torch.load(out, weights_only=True)) == len(section(done, "mapped")) == 8
    assert "unmapped: 7 (neck 7)" in done.stdout.splitlines()


def test_what_must_be_set_is_said(convert):
    pyramid = FPN(CHANNELS, WIDTH, 6, add_extra_convs="on_input")
    done, _ = convert(named("neck.", pyramid), "mmdet", "torchvision")
    assert done.returncode == 0, done.stderr
    text = " ".join(section(done, "to set or check"))
    assert "add_extra_convs='on_input'" in text
    assert "relu_before_extra_convs=True" in text


def test_without_the_flag_nothing_is_written(convert, assert_refused):
    done, out = convert(named("neck.", FPN(CHANNELS, WIDTH)), "mmdet", "smp")
    assert_refused(
        done, "8 keys unmapped, e.g. neck.fpn_convs.0", "its 3x3 nowhere", "--allow-unmapped"
    )
    assert not out.exists()
    assert len(section(done, "unmapped")) == 8  # the report is printed anyway


def test_a_refusal_leaves_an_older_file_as_it_was(convert, assert_refused, tmp_path):
    (tmp_path / "out.pth").write_bytes(b"older")
    done, out = convert(named("neck.", FPN(CHANNELS, WIDTH)), "mmdet", "smp")
    assert_refused(done, "nothing is written")
    unchanged = out.read_bytes() == b"older"
    assert unchanged


def test_missing_keys_are_refused(convert, assert_refused):
    state = named("neck.", FPN(CHANNELS, WIDTH))
    del state["neck.lateral_convs.2.conv.bias"]
    done, out = convert(state, "mmdet", "detectron2")
    assert_refused(done, "1 keys missing, e.g. backbone.fpn_lateral4.bias")
    assert not out.exists()


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        (META | {"epoch": 3, "cfg": "model = dict()"}, META),
        ({"CLASSES": ("a",), "PALETTE": [[1, 2, 3]]}, {"CLASSES": ("a",), "PALETTE": [[1, 2, 3]]}),
        ({}, {}),
    ],
    ids=["mm 1 and 3", "earlier", "none"],
)
def test_class_names_stay_from_mm_to_mm(convert, meta, kept):
    state = named("decode_head.", SegHead(WIDTH, 2))
    done, out = convert({"state_dict": state, "meta": meta}, "mmseg", "mmdet")
    assert done.returncode == 0, done.stderr
    content = load_checkpoint(out)
    assert content["meta"] == kept
    assert "semantic_head.conv_logits.weight" in content["state_dict"]


def test_a_detectron2_zoo_file_is_read(convert, tmp_path):
    arrays = {}
    for level, c in zip(range(2, 6), CHANNELS, strict=True):
        arrays[f"backbone.fpn_lateral{level}.weight"] = np.ones((WIDTH, c, 1, 1), np.float32)
        arrays[f"backbone.fpn_output{level}.weight"] = np.ones((WIDTH, WIDTH, 3, 3), np.float32)
        for kind in ("lateral", "output"):
            arrays[f"backbone.fpn_{kind}{level}.bias"] = np.full(WIDTH, level, np.float32)
    arrays["proposal_generator.rpn_head.conv.bias"] = np.zeros(1, np.float32)
    path = tmp_path / "model_final.pkl"
    zoo = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    path.write_bytes(pickle.dumps(zoo, protocol=2))
    done, out = convert(path, "detectron2", "mmdet")
    assert done.returncode == 0, done.stderr
    assert section(done, "ignored") == ["proposal_generator.rpn_head.conv.bias"]
    fpn = FPN(CHANNELS, WIDTH)
    state = torch.load(out, weights_only=True)["state_dict"]
    fpn.load_state_dict({k.removeprefix("neck."): v for k, v in state.items()}, strict=True)
    assert fpn.lateral_convs[3].conv.bias[0] == 5


def test_detectron2s_group_norm_has_to_be_named(convert, assert_refused):
    state = {}
    for level in range(2, 6):
        for kind, size in (("lateral", 1), ("output", 3)):
            state[f"backbone.fpn_{kind}{level}.weight"] = torch.ones(WIDTH, WIDTH, size, size)
            state[f"backbone.fpn_{kind}{level}.norm.weight"] = torch.ones(WIDTH)
            state[f"backbone.fpn_{kind}{level}.norm.bias"] = torch.ones(WIDTH)
    done, out = convert(state, "detectron2", "mmdet")
    assert_refused(done, "16 keys unmapped", "--norm GN")
    assert not out.exists()
    done, out = convert(state, "detectron2", "mmdet", "--norm", "GN")
    assert done.returncode == 0, done.stderr
    assert "neck.fpn_convs.3.gn.bias" in load_checkpoint(out)["state_dict"]


def test_a_safetensors_file_is_read(convert, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "in.safetensors"
    safetensors.save_file(named("neck.", FPN(CHANNELS, WIDTH)), path)
    done, out = convert(path, "mmdet", "mmseg")
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_an_evil_file_is_refused(call_tool, evil_checkpoint, assert_refused, tmp_path):
    out = tmp_path / "out.pth"
    arguments = (evil_checkpoint, out, "--from", "mmdet", "--to", "smp")
    assert_refused(call_tool("convert_checkpoint", *arguments), "evil.pth", "refused")
    pickled = tmp_path / "evil.pkl"

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    pickled.write_bytes(pickle.dumps({"model": Evil()}))
    arguments = (pickled, out, "--from", "detectron2", "--to", "mmdet")
    assert_refused(call_tool("convert_checkpoint", *arguments), "evil.pkl", "asks for")
    assert not (tmp_path / "executed").exists()
    assert not out.exists()


@pytest.mark.parametrize("out", ["out.pkl", "out.safetensors", "out", "in.pth"])
def test_an_output_that_could_not_be_read_back_is_refused(convert, assert_refused, out):
    state = named("neck.", FPN(CHANNELS, WIDTH))
    done, _ = convert(state, "mmdet", "mmseg", out=out)
    assert_refused(done, out, "IN itself" if out == "in.pth" else f"{out}: torch.save writes it")


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("mmdet", "mmdet", "nothing to convert"),
        ("detectron2", "mmdet", "no backbone, neck or segmentation head under detectron2's names"),
    ],
)
def test_weights_of_another_library_are_refused(convert, assert_refused, source, target, words):
    done, out = convert(named("neck.", FPN(CHANNELS, WIDTH)), source, target)
    assert_refused(done, words)
    assert not out.exists()


def test_a_missing_file_and_one_without_weights_are_refused(convert, assert_refused, tmp_path):
    done, _ = convert(tmp_path / "absent.pth", "mmdet", "smp")
    assert_refused(done, "absent.pth: no such file")
    done, _ = convert({"epoch": 3}, "mmdet", "smp")
    assert_refused(done, "no state_dict")


def test_an_unknown_library_is_named(call_tool, tmp_path):
    done = call_tool("convert_checkpoint", "a.pth", "b.pth", "--from", "keras", "--to", "mmdet")
    assert done.returncode == 2
    assert "keras" in done.stderr
