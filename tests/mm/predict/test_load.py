"""fpn_neck.load: a checkpoint of training only, any kind of photo, the same answer as predict's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fpn_neck

for _package in ("mmseg", "mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)


@pytest.fixture
def photo():
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)
    return np.asarray(image)


@pytest.mark.parametrize("absent", ["timm", "torchvision", "mmengine", "mmseg"])
def test_a_missing_package_is_named_with_what_installs_it(trained, run_python, absent):
    model, extra = (trained.checkpoint, "mm") if absent.startswith("mm") else (None, "timm")
    out = run_python(
        f"import sys; sys.modules[{absent!r}] = None\n"
        "import fpn_neck\n"
        f"try:\n    fpn_neck.load({model and str(model)!r}, device='cpu')\n"
        "except ImportError as e:\n    print(e)\n"
    )
    assert f"needs the package {absent}: pip install 'fpn_neck[{extra}]'" in out


def test_a_checkpoint_of_training_is_enough_for_photos_of_any_kind(
    trained, varied, photo, tmp_path, call_tool
):
    predictor = fpn_neck.load(varied, device="cpu")
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "a.png")
    expected = fpn_neck.load(varied, trained.config, "cpu")(folder / "a.png")
    assert len(np.unique(expected.labels)) > 1
    np.testing.assert_array_equal(expected.image, photo)
    several = predictor([photo, photo[:50], folder], batch=3)
    assert several[1].labels.shape == (50, 96) and several[2].photo == str(folder / "a.png")
    for given in (photo, Image.fromarray(photo), str(folder / "a.png")):
        np.testing.assert_array_equal(predictor(given).labels, expected.labels)
    for result in (several[0], several[2]):  # in a batch
        np.testing.assert_array_equal(result.labels, expected.labels)
    assert sum(expected.areas.values()) == 64 * 96 and set(expected.areas) <= {*predictor.classes}

    options = ["--json", "--device", "cpu", "--overlay", "alone", "--batch", 2]
    done = call_tool("predict", varied, folder, "--out", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # nothing else is there
    assert "1 of 1 photos" in done.stderr
    assert document == json.loads((tmp_path / "out/results.json").read_text())
    assert document["schema"] == 1 and document["photos"][0]["areas"] == expected.areas
    labels = np.asarray(Image.open(tmp_path / "out/labels/a.png"))
    np.testing.assert_array_equal(labels, expected.labels)

    augmented = fpn_neck.load(varied, device="cpu", tta=True)(photo)
    assert augmented.labels.shape == (64, 96)
    assert (augmented.labels == expected.labels).mean() > 0.5


@pytest.mark.parametrize("with_config", [False, True], ids=["its own config", "a config"])
def test_a_checkpoint_is_read_once(trained, varied, monkeypatch, with_config):
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **kw: read.append(path) or load(path, **kw))
    fpn_neck.load(varied, trained.config if with_config else None, "cpu")
    assert read == [varied]


def test_what_holds_no_config_says_what_to_give(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="bare.pth holds no config: give the config"):
        fpn_neck.load(tmp_path / "bare.pth")
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        fpn_neck.load(tmp_path / "gone.pth")


@pytest.mark.parametrize("value", [5, -1, "a"])
def test_a_score_that_is_no_share_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="score_thr="):
        fpn_neck.load(score_thr=value)


@pytest.mark.parametrize("name", ["model.xml", "model.pt2"])
def test_exported_models_that_are_not_loaded_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: of exported models only ONNX"):
        fpn_neck.load(name)


def test_a_photo_that_cannot_be_read_is_named(tmp_path):
    pytest.importorskip("timm")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    predictor = fpn_neck.load(device="cpu")
    for batch in (1, 2):
        with pytest.raises(ValueError, match=r"b\.png: not a readable photo"):
            predictor(tmp_path, batch=batch)
