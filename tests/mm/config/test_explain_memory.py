"""Out of memory, explained by the settings that decide on it."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402, F401  (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.config.explain_memory import memory_advice  # noqa: E402

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


def message(failing, cfg=None):
    with pytest.raises(ValueError) as caught, memory_advice(cfg or config()):
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
    def val_step():
        torchs_allocator()

    def test_step():
        torchs_allocator()

    text = message(val_step)
    assert "batch_size=3" in text and "scale=(640, 480)" in text and "test_cfg.tile" in text
    assert "loss_stride" not in text
    assert "lower test_dataloader.batch_size" in message(test_step)


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
    with pytest.raises(type(error)) as caught, memory_advice(config()):
        raise error
    assert caught.value is error


def test_a_cascades_heads_are_named_by_their_number():
    heads = [dict(type="FCNHead"), dict(type="fpn_neck.FPNHead", loss_stride=2, num_classes=3)]
    cascade = config(type="CascadeEncoderDecoder", decode_head=heads)
    assert "raise model.decode_head.1.loss_stride=2" in message(torchs_allocator, cascade)
