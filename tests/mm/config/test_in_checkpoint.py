"""The config inside a checkpoint is data: what is more than that is refused, and nothing is run."""

import pytest

for _package in ("mmseg", "mmdet", "timm"):
    pytest.importorskip(_package)

from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.config.in_checkpoint import config_in_checkpoint, literals  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402


def checkpoint(text):
    return {"meta": {"cfg": text}, "state_dict": {}}


def minimal(kind="EncoderDecoder", more=""):
    return (
        f"default_scope = 'mmseg'\nmodel = dict(type={kind!r}{more})\n"
        "test_dataloader = dict(dataset=dict(type='Other', pipeline=[dict(type='Resize')]))\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "segmentation/fpn_lite0_demo_shapes-256x320.py",
        "segmentation/fpn_r50_4xb4-160k_ade20k-512x512.py",
        "detection/mask-rcnn_r50_fpn_1x_coco.py",
        "detection/panoptic-fpn_lite0_fpn_1xb4-600_shapes-256x320.py",
        "detection/retinanet_lite0_fpn_1xb4-600_shapes-256x320.py",
    ],
)
def test_the_text_of_a_recipe_gives_its_model_and_pipeline(name):
    cfg = load_config(f"fpn_neck::{name}")
    found = config_in_checkpoint(checkpoint(cfg.pretty_text), "model.pth")
    expected = Config(cfg.to_dict()).to_dict()
    assert found.model.to_dict() == expected["model"]
    pipeline = found.test_dataloader.dataset.pipeline
    assert [t.to_dict() for t in pipeline] == expected["test_dataloader"]["dataset"]["pipeline"]


def test_literals_of_every_kind():
    text = "a = dict({'x.y': [1, (2.5, None)]}, z=True)\nb = {-1: -inf}\nc = open('f')\n"
    assert literals(text, "a", "b") == {
        "a": {"x.y": [1, (2.5, None)], "z": True},
        "b": {-1: float("-inf")},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = open('x', 'w')", "line 1 holds \"open('x', 'w')\", which is not data"),
        ("model = dict(type=__import__('os').system)", "which is not data"),
        ("model = [x for x in (1,)]", "which is not data"),
        ("model = dict(**{'a': 1})", "which is not data"),
        ("model = dict(", "can't be read"),
        ("model = " + "[" * 5000 + "]" * 5000, "can't be read"),
        ("#" * 2_000_001, "too long"),
        (minimal("os.system", ", command='touch executed'"), "the type 'os.system'"),
        (minimal("system"), "the type 'system' is not registered"),
        (minimal("mmseg.os"), "the type 'mmseg.os' is not registered"),
        (minimal(more=", neck=dict(type='antigravity')"), "the type 'antigravity'"),
        (minimal(more=", _scope_='evil'"), "the scope 'evil' is none of"),
        (minimal().replace("'mmseg'", "'evil'"), "the scope 'evil' is none of"),
        ("model = 3\ntest_dataloader = 4", "has no attribute"),
    ],
)
def test_what_is_more_than_data_is_refused(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="checkpoint model.pth") as refused:
        config_in_checkpoint(checkpoint(text), "model.pth")
    assert words in str(refused.value) and "load(config=)" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_mmengine_would_have_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Config.fromstring("model = open('executed', 'w').close()", ".py")
    assert (tmp_path / "executed").exists()


def test_the_paths_of_classes_become_registered_names():
    text = minimal("mmseg.models.segmentors.EncoderDecoder").replace(
        "'Resize'", "'mmcv.transforms.processing.Resize'"
    )
    found = config_in_checkpoint(checkpoint(text), "model.pth")
    assert found.model.type == "mmseg.EncoderDecoder"
    assert found.test_dataloader.dataset.pipeline[0].type == "Resize"


@pytest.mark.parametrize("content", [{}, {"meta": None}, {"meta": {"cfg": 3}}, [1]])
def test_a_checkpoint_without_a_config_says_what_to_give(content):
    with pytest.raises(ValueError, match="holds no config: give the config it was trained with"):
        config_in_checkpoint(content, "model.pth")
