"""fpn-neck export and predict FILE.onnx, as a user runs them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

for _package in ("mmseg", "timm", "onnx", "onnxruntime", "pycocotools"):
    pytest.importorskip(_package)

from fpn_neck import load  # noqa: E402

RUN = "import sys; sys.argv[0] = 'fpn-neck'\nfrom fpn_neck.__main__ import main\n"
WITHOUT_TORCH = RUN + "code = main(); print('torch' in sys.modules); sys.exit(code)"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for name, size in {"a": (96, 64), "b": (70, 50)}.items():
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def exported(run_tool, trained, varied, tmp_path_factory):
    """The demo's small segmenter as an ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    options = ["--dynamic", "--preprocess", "--out", folder / "model.onnx"]
    done = run_tool("export", trained.config, varied, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout and "64x96" in done.stdout
    return folder / "model.onnx"


def predict(model, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCH, "predict", model, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)


def test_predict_runs_without_torch_and_gives_the_labels_of_the_checkpoint(
    exported, photos, call_tool, trained, varied, tmp_path
):
    done = predict(exported, photos, "--out", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert "2 of 2 photos" in done.stdout
    call_tool("predict", trained.config, varied, photos, "--out", tmp_path / "torch")
    for name, size in (("a", (64, 96)), ("b", (50, 70))):
        labels, expected = (
            np.asarray(Image.open(tmp_path / way / f"labels/{name}.png"))
            for way in ("onnx", "torch")
        )
        assert labels.shape == expected.shape == size and len(np.unique(expected)) > 1
        assert (labels == expected).mean() > 0.99  # OpenCV rounds resized pixels in its own way
        assert (tmp_path / f"onnx/overlays/{name}.png").is_file()
    results = json.loads((tmp_path / "onnx/results.json").read_text())
    assert len(results["photos"]) == 2 and "background" in results["classes"]


def test_predict_has_the_arguments_of_a_checkpoint(exported, photos, tmp_path):
    """--json without --out writes nothing."""
    done = predict(exported, photos, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.rsplit("False", 1)[0])
    assert len(document["photos"]) == 2 and document["failed"] == []
    done = predict(exported, photos, "--overlay", "none", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out/overlays").exists() and (tmp_path / "out/labels/a.png").is_file()


def test_load_takes_the_file_too(exported, photos, tmp_path, run_python):
    done = predict(exported, photos / "a.png", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    labels = load(exported)(photos / "a.png").labels
    np.testing.assert_array_equal(labels, Image.open(tmp_path / "out/labels/a.png"))
    out = run_python(
        f"import sys, fpn_neck; fpn_neck.load({str(exported)!r}); print('torch' in sys.modules)"
    )
    assert out.splitlines()[-1] == "False"
    with pytest.raises(ValueError, match="is an ONNX file: leave out config"):
        load(exported, "config.py")


def test_a_checkpoint_that_holds_its_config_needs_no_other(
    exported, photos, call_tool, trained, tmp_path
):
    """And a program of torch.export may give logits."""
    path = tmp_path / "model.pt2"
    done = call_tool("export", trained.checkpoint, "--format", "torch-export", "--out", path)
    assert done.returncode == 0 and "largest difference" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_photo_is_named_and_the_others_are_done(exported, photos, tmp_path):
    (tmp_path / "broken.png").write_text("text")
    done = predict(exported, tmp_path / "broken.png", photos / "a.png", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 2 photos" in done.stdout and "broken.png" in done.stderr


def test_a_refused_export_is_one_line(call_tool, assert_refused, trained, varied, tmp_path):
    model = trained.config, varied
    done = call_tool("export", *model, "--out", tmp_path / "model.pt")
    assert_refused(done, "model.pt", "FILE.onnx for onnx")
    done = call_tool("export", *model, "--size", "64", "--out", tmp_path / "model.onnx")
    assert_refused(done, "--size 64", "HEIGHTxWIDTH")
    mode = ["--cfg-options", "model.test_cfg.mode=slide"]
    done = call_tool("export", *model, "--out", tmp_path / "model.onnx", *mode)
    assert_refused(done, "slide", "--features")
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_size_of_photos_that_keep_their_shape_is_said(
    call_tool, trained, varied, photos, tmp_path
):
    """`predict` refuses photos that become another size."""
    options = ["--out", tmp_path / "fixed.onnx"]
    done = call_tool("export", trained.config, varied, *options, "--size", "64x96")
    assert "takes only images of 64x96 px" in done.stderr and "--dynamic" in done.stderr
    assert (
        "--dynamic" not in call_tool("export", trained.config, varied, *options, "--dynamic").stderr
    )
    call_tool("export", trained.config, varied, *options, "--size", "64x96")
    done = predict(tmp_path / "fixed.onnx", photos, "--out", tmp_path / "out")
    assert done.returncode == 1 and "the photo becomes 64x90" in done.stderr


def test_feature_maps(call_tool, trained, varied, tmp_path):
    import onnx

    path = tmp_path / "maps.onnx"
    options = ["--features", "--size", "64x96", "--out", path]
    done = call_tool("export", trained.config, varied, *options)
    assert done.returncode == 0, done.stderr
    assert [output.name for output in onnx.load(path).graph.output] == ["p2", "p3", "p4", "p5"]
