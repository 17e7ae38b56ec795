"""Errors of building a config and of too little memory: one line that says what to do."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402, F401  (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from mmengine.config import Config  # noqa: E402
from mmengine.registry import HOOKS, LOOPS, Registry  # noqa: E402

from fpn_neck.mm.explain import explained  # noqa: E402

PARTS = Registry("parts", scope="mmengine")


@PARTS.register_module()
class Part:
    def __init__(self, size=1, inner=None):
        if size < 0:
            raise AttributeError(f"size={size} must be positive")
        self.inner = inner and PARTS.build(inner)

    def run(self):
        raise KeyError("while it runs")


def build_message(registry, cfg, *path):
    part = cfg
    for key in path:
        part = part[key]
    with pytest.raises(ValueError) as caught, explained(cfg, "train"):
        registry.build(part)
    return str(caught.value)


def test_an_unknown_type_is_named_without_advice():
    cfg = Config(dict(default_hooks=dict(logger=dict(type="Foo", a=1)), train_cfg=dict(type="Bar")))
    text = build_message(HOOKS, cfg, "default_hooks", "logger")
    assert text.startswith("config: default_hooks.logger (type 'Foo'): Foo is not in the")
    assert "http" not in text and text.endswith("registry.")
    text = build_message(LOOPS, cfg, "train_cfg")
    assert text.startswith("config: train_cfg (type 'Bar'): Bar is")


def test_an_unknown_type_is_named_at_any_step():
    """Initializers are built when weights are drawn, after all else."""
    cfg = Config(dict(model=dict(type="Part", init_cfg=dict(type="Nonsense"))))
    with pytest.raises(ValueError) as caught, explained(cfg, "train", building=False):
        PARTS.build(cfg.model.init_cfg)
    assert str(caught.value).startswith("config: model.init_cfg (type 'Nonsense'): Nonsense is not")


def test_an_error_without_a_message_shows_the_line_of_code():
    """Such as mmdet's assertions."""
    with pytest.raises(ValueError) as caught, explained(Config({}), "train") as step:
        step.before_run(None)
        step.place = "training step 3"
        raise AssertionError
    expected = r"training step 3: AssertionError in \S+test_explain.py, line \d+: raise Assert"
    assert re.match(expected, str(caught.value))


def test_the_innermost_part_is_named():
    cfg = Config(dict(model=dict(type="Part", inner=dict(type="Part", inner=dict(type="No")))))
    assert "config: model.inner.inner (type 'No')" in build_message(PARTS, cfg, "model")


def test_of_two_of_one_type_the_one_with_its_settings_is_named():
    cfg = Config(dict(parts=[dict(type="Part"), dict(type="Part", size=-1)]))
    text = build_message(PARTS, cfg, "parts", 1)
    assert text == "config: parts.1 (type 'Part'): size=-1 must be positive"


def test_of_two_alike_both_are_named_and_the_same_one_once():
    part, other = (dict(type="Part", size=-1, inner=inner) for inner in (None, dict(type="Part")))
    text = build_message(PARTS, Config(dict(a=part, b=part, c=other)), "b")
    assert text == "config: a (type 'Part') or c (type 'Part'): size=-1 must be positive"


def test_an_error_that_names_nothing_is_one_line():
    cfg = Config(dict(model=dict(type="Part")))
    with pytest.raises(ValueError) as caught, explained(cfg, "train"):
        raise KeyError("x")
    assert str(caught.value) == "config: one of its parts: KeyError: x"


def test_an_unknown_argument_is_named():
    cfg = Config(dict(model=dict(type="Part", colour=3)))
    assert "config: model (type 'Part')" in (text := build_message(PARTS, cfg, "model"))
    assert "'colour'" in text


def test_what_was_built_keeps_its_errors():
    cfg = Config(dict(model=dict(type="Part")))
    with pytest.raises(KeyError, match="while it runs"), explained(cfg, "train") as step:
        part = PARTS.build(cfg.model)
        step.before_run(None)
        part.run()


@pytest.mark.parametrize("error", [FileNotFoundError("no a.pth"), ImportError("no such package")])
def test_errors_that_a_tool_shows_in_one_line_pass(error):
    with pytest.raises(type(error)) as caught, explained(Config(dict(model={})), "train"):
        raise error
    assert caught.value is error


def test_the_end_of_another_process_passes():
    error = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(RuntimeError) as caught, explained(Config(dict(model={})), "train"):
        raise error
    assert caught.value is error


# ------------------------------------------------------------------------------- too little memory

FAR_TOO_MUCH = 1 << 55  # bytes


def config(**model):
    crop = dict(type="RandomCrop", crop_size=(512, 352))
    resize = dict(type="Resize", scale=(640, 480), keep_ratio=True)
    backbone = dict(type="ResNetV1c", depth=50)
    head = dict(type="fpn_neck.FPNHead", num_classes=59)
    return Config(
        dict(
            default_scope="mmseg",
            model=dict(type="fpn_neck.EncoderDecoder", backbone=backbone, decode_head=head) | model,
            train_dataloader=dict(batch_size=16, dataset=dict(pipeline=[crop])),
            val_dataloader=dict(batch_size=3, dataset=dict(pipeline=[resize])),
            test_dataloader=dict(batch_size=4, dataset=dict(pipeline=[resize])),
        )
    )


def torchs_allocator():
    torch.empty(FAR_TOO_MUCH, dtype=torch.uint8)


def numpys():
    np.empty(FAR_TOO_MUCH, np.uint8)


def opencvs():
    cv2 = pytest.importorskip("cv2")
    cv2.resize(np.zeros((8, 8), np.float64), (1 << 30, 1 << 30))


def pythons():
    bytearray(FAR_TOO_MUCH)


def gpus():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


def message(failing, cfg=None, step="train"):
    with pytest.raises(ValueError) as caught, explained(cfg or config(), step, building=False):
        failing()
    text = str(caught.value)
    assert text.startswith("out of memory") and "\n" not in text
    return text


@pytest.mark.parametrize("failing", [torchs_allocator, numpys, opencvs, pythons, gpus])
def test_every_allocators_error_is_known(failing):
    text = message(failing)
    for word in ("batch_size=16", "crop_size=(512, 352)", "59 classes", "loss_stride=1", "with_cp"):
        assert word in text


def test_what_was_asked_for_is_said():
    assert "(36028797.0 GB more)" in message(torchs_allocator)
    assert "(20.00 GiB more)" in message(gpus)


def test_validation_and_testing_are_told_from_training():
    with pytest.raises(ValueError) as caught, explained(config(), "train") as step:
        step.before_run(None)
        step.before_val(None)
        torchs_allocator()
    text = str(caught.value)
    assert "batch_size=3" in text and "scale=(640, 480)" in text and "test_cfg.tile" in text
    assert "loss_stride" not in text
    assert "lower test_dataloader.batch_size" in message(torchs_allocator, step="test")
    with pytest.raises(ValueError, match="batch_size=16"), explained(config(), "train") as step:
        step.before_val(None)
        step.after_val(None)
        torchs_allocator()


def test_nothing_is_advised_that_is_not_there():
    stock = config(
        type="EncoderDecoder",
        backbone=dict(type="ResNetV1c", depth=50, with_cp=True),
        decode_head=dict(type="FPNHead", num_classes=59),
    )
    text = message(torchs_allocator, stock)
    assert "with_cp" not in text and "loss_stride" not in text
    bare = Config(dict(model=dict(type="RPN")))
    assert "train_dataloader.batch_size" in message(torchs_allocator, bare)


def test_the_last_checkpoint_is_named(tmp_path):
    cfg = config()
    cfg.work_dir = str(tmp_path)
    assert "checkpoint" not in message(torchs_allocator, cfg)
    (tmp_path / "last_checkpoint").write_text("runs/iter_20.pth\n")
    assert "last good checkpoint: runs/iter_20.pth" in message(torchs_allocator, cfg)


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), KeyError("x"), SystemExit(3)])
def test_other_errors_pass(error):
    with (
        pytest.raises(type(error)) as caught,
        explained(config(), "train", building=False),
    ):
        raise error
    assert caught.value is error


def test_a_cascades_heads_are_named_by_their_number():
    heads = [dict(type="FCNHead"), dict(type="fpn_neck.FPNHead", loss_stride=2, num_classes=3)]
    cascade = config(type="CascadeEncoderDecoder", decode_head=heads)
    assert "raise model.decode_head.1.loss_stride=2" in message(torchs_allocator, cascade)


def test_classes_are_known_as_their_names_are():
    """mmengine's Python configs name the classes themselves."""
    from mmseg.models import ResNetV1c

    from fpn_neck.mm.seg.head import FPNHead
    from fpn_neck.mm.seg.segmentor import EncoderDecoder

    head, backbone = dict(type=FPNHead, num_classes=59), dict(type=ResNetV1c, depth=50)
    ours = config(type=EncoderDecoder, decode_head=head, backbone=backbone)
    text = message(torchs_allocator, ours)
    assert "model.decode_head.loss_stride=1" in text and "with_cp=True" in text
    assert "model.test_cfg.tile" in message(torchs_allocator, ours, step="test")
