"""tools/predict.py: photos in, label files and overlays out, one line for what is wrong."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

import fpn_neck

for _package in ("mmseg", "timm", "pycocotools"):
    pytest.importorskip(_package)


SIZES = {"a": (64, 96), "b": (50, 70), "c": (131, 90)}  # height, width


def make_photo(path, size=(64, 96), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos, one of them deeper, and a file that is no photo."""
    folder = tmp_path / "photos"
    make_photo(folder / "a.jpg", SIZES["a"], 0)
    make_photo(folder / "b.PNG", SIZES["b"], 1)
    make_photo(folder / "deep/c.jpeg", SIZES["c"], 2)
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def predict(call_tool, trained, varied, tmp_path):
    """Run the tool; returns what finished and the output folder."""

    def run(*arguments, config=None, checkpoint=None):
        done = call_tool(
            "predict",
            config or trained.config,
            checkpoint or varied,
            *arguments,
            "--out",
            tmp_path / "out",
        )
        return done, tmp_path / "out"

    return run


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def outputs(*names):
    pictures = [f"{kind}/{name}.png" for kind in ("labels", "overlays") for name in names]
    return sorted([*pictures, "photos.json", "results.json"])


# ---------------------------------------------------------------------------------- what it writes


def test_labels_are_the_models_argmax_at_the_photos_size(predict, trained, varied, photos):
    cv2 = pytest.importorskip("cv2")
    from mmseg.apis import inference_model, init_model

    done, out = predict(photos)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 photos" in done.stdout
    assert files_of(out) == outputs("a", "b", "c")
    model = init_model(str(trained.config), str(varied), device="cpu")
    for name in ("a.jpg", "b.PNG", "deep/c.jpeg"):
        photo, stem = cv2.imread(str(photos / name)), Path(name).stem
        expected = inference_model(model, photo).pred_sem_seg.data[0].numpy()
        png = Image.open(out / f"labels/{stem}.png")
        labels = np.asarray(png)
        assert png.mode == "P" and labels.shape == SIZES[stem]
        assert len(np.unique(labels)) > 1
        assert (labels == expected).mean() > 0.999  # a tie may fall either way


def test_overlays_show_the_photo_beside_the_prediction(predict, photos):
    _, out = predict(photos / "b.PNG")
    pixels = np.asarray(Image.open(out / "overlays/b.png"))
    photo = np.asarray(Image.open(photos / "b.PNG"))
    height, width = SIZES["b"]
    assert pixels.shape[1] > 2 * width
    rows = range(pixels.shape[0] - height + 1)
    assert any((pixels[y : y + height, :width] == photo).all() for y in rows)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_any_kind_of_photo(predict, tmp_path, mode):
    path = tmp_path / "photo.png"
    make_photo(path, (40, 30), mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
    done, out = predict(path)
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(out / "labels/photo.png")).shape == (40, 30)


def test_a_photo_of_one_pixel(predict, tmp_path):
    done, out = predict(make_photo(tmp_path / "dot.png", (1, 1)))
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(out / "labels/dot.png")).shape == (1, 1)


def test_a_second_run_replaces_the_first(predict, tmp_path):
    photo = make_photo(tmp_path / "a.png", (40, 30))
    predict(photo)
    make_photo(photo, (50, 60))
    _, out = predict(photo)
    assert files_of(out) == outputs("a")
    assert np.asarray(Image.open(out / "labels/a.png")).shape == (50, 60)


def test_a_run_in_which_every_photo_fails_leaves_no_old_tables(predict, tmp_path):
    photo = make_photo(tmp_path / "a.png", (40, 30))
    predict(photo, "--coco")
    assert (tmp_path / "out/coco/segm.json").exists()
    photo.write_bytes(b"no picture")
    done, out = predict(photo)
    assert done.returncode == 1
    document = json.loads((out / "results.json").read_text())
    assert document["photos"] == []
    assert [one["photo"] for one in document["failed"]] == [str(photo)]
    assert json.loads((out / "photos.json").read_text()) == {}
    assert not list((out / "coco").iterdir())


def test_a_folder_of_results_may_end_like_a_model(call_tool, tmp_path):
    photo, out = make_photo(tmp_path / "a.png"), tmp_path / "res.onnx"
    done = call_tool("predict", photo, "--out", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert files_of(out) == outputs("a")


def test_what_is_no_photo_is_not_taken_for_one(call_tool, assert_refused, trained, tmp_path):
    photo = make_photo(tmp_path / "a.png")
    for model in ("model.xml", "model.pt2"):
        (tmp_path / model).write_text("<net/>")
        done = call_tool("predict", tmp_path / model, photo, "--out", tmp_path / "out")
        assert_refused(done, model, "only ONNX")
    done = call_tool("predict", trained.work_dir, photo, "--out", tmp_path / "out")
    assert_refused(done, "folder of a training")
    assert not (tmp_path / "out").exists()


def test_an_empty_name_is_not_the_current_folder(predict, assert_refused):
    done, out = predict("")
    assert_refused(done, "a photo's name is empty")
    assert not out.exists()


@pytest.mark.parametrize(("option", "value"), [("--opacity", 2), ("--score-thr", 7)])
def test_a_share_above_1_is_refused(predict, assert_refused, tmp_path, option, value):
    done, out = predict(make_photo(tmp_path / "a.png"), option, value)
    assert_refused(done, option, "expected 0 to 1")
    assert not out.exists()


# ------------------------------------------------------------------------------- which photos


@pytest.mark.parametrize("given", ["", "**/*.png"])
def test_the_results_of_an_earlier_run_are_no_photos(predict, tmp_path, given):
    folder = tmp_path / "photos"
    make_photo(folder / "a.png")
    assert predict(folder / given)[0].returncode == 0
    (tmp_path / "out").rename(folder / "first")
    done, out = predict(folder / given)
    assert "1 of 1 photos" in done.stdout, done.stderr
    assert files_of(out) == outputs("a")


def test_the_tables_are_of_the_last_run_and_older_pictures_are_counted(predict, photos):
    predict(photos)
    done, out = predict(photos / "a.jpg")
    assert done.returncode == 0, done.stderr
    assert "4 pictures of earlier runs are there, too" in done.stdout
    assert files_of(out) == outputs("a", "b", "c")
    assert [one["name"] for one in json.loads((out / "results.json").read_text())["photos"]] == [
        "a"
    ]


def test_files_without_a_folder_are_refused(call_tool, assert_refused, trained, varied, photos):
    words = ["predict", trained.config, varied, photos / "a.jpg", "--json"]
    for option in (["--coco"], ["--overlay", "alone"]):
        assert_refused(call_tool(*words, *option), "--coco and --overlay write files", "give --out")
    assert call_tool(*words, "--overlay", "none").returncode == 0


def test_allow_mismatch_is_not_for_a_segmenters_folder(call_tool, assert_refused, photos, tmp_path):
    model = fpn_neck.Segmenter("resnet10t", 3, neck={"out_channels": 8}, head={"channels": 32})
    model.save_pretrained(tmp_path / "model")
    done = call_tool("predict", tmp_path / "model", photos, "--allow-mismatch")
    assert_refused(done, "is a segmenter's folder", "--allow-mismatch")
    command = ["predict", tmp_path / "model", photos / "a.jpg", "--out"]
    assert call_tool(*command, tmp_path / "out", "--tta", "--device", "cpu").returncode == 0
    found = np.asarray(Image.open(tmp_path / "out/labels/a.png"))
    predictor = fpn_neck.load(tmp_path / "model", device="cpu", tta=True)
    np.testing.assert_array_equal(found, predictor(photos / "a.jpg").labels)


def test_what_is_done_at_ctrl_c_is_in_the_tables(predict, photos, monkeypatch):
    from fpn_neck.mm.seg.predictor import SegmentationPredictor

    whole = SegmentationPredictor.predict

    def stopped_at_the_second(self, given):
        if given[0].name == "b.PNG":
            raise KeyboardInterrupt
        return whole(self, given)

    predict(photos / "deep")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal, where rich replaces both streams
    before = sys.stdout, sys.stderr
    monkeypatch.setattr(SegmentationPredictor, "predict", stopped_at_the_second)
    done, out = predict(photos)
    assert (sys.stdout, sys.stderr) == before  # the bar holds them no more
    assert done.returncode == 130 and done.stderr.endswith("stopped by Ctrl-C\n")
    assert [*json.loads((out / "photos.json").read_text()).values()] == ["a"]


def test_files_folders_and_globs_each_photo_once(predict, photos):
    done, out = predict(photos / "a.jpg", photos / "*.jpg", photos, photos / "**/*.jpeg")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 photos" in done.stdout
    assert files_of(out) == outputs("a", "b", "c")


def test_brackets_in_a_file_name_are_no_pattern(predict, tmp_path):
    photo = make_photo(tmp_path / "photo[1].png")
    done, out = predict(photo)
    assert done.returncode == 0, done.stderr
    assert files_of(out) == outputs("photo[1]")


def test_photos_of_one_name_do_not_overwrite_each_other(predict, tmp_path):
    sizes = {"x/a.jpg": (20, 30), "y/a.jpg": (30, 20), "y/a.png": (40, 50), "y/a.bmp": (60, 50)}
    for name, size in sizes.items():
        make_photo(tmp_path / "in" / name, size)
    done, out = predict(tmp_path / "in")
    assert "4 of 4 photos" in done.stdout
    written = list((out / "labels").iterdir())
    shapes = sorted(np.asarray(Image.open(p)).shape for p in written)
    assert shapes == sorted(sizes.values())
    assert sorted(p.name for p in (out / "overlays").iterdir()) == sorted(p.name for p in written)
    assert np.asarray(Image.open(out / "labels/a.png")).shape == (
        20,
        30,
    )  # the first keeps its name


def test_its_own_outputs_are_no_photos(predict, photos, tmp_path):
    for _ in range(2):  # the second time, the folder holds what the first one wrote
        done, out = predict(photos, tmp_path)
        assert "3 of 3 photos" in done.stdout
        assert files_of(out) == outputs("a", "b", "c")


@pytest.mark.parametrize("name", ["no.jpg", "*.webp", "empty"])
def test_nothing_found_is_one_line(predict, assert_refused, photos, name):
    (photos / "empty").mkdir()
    done, out = predict(photos / "a.jpg", photos / name)
    assert_refused(done, name)
    assert not out.exists()


def test_a_photo_below_the_output_folder(call_tool, trained, varied, photos, monkeypatch):
    """Only what the tool wrote there is no photo, and only for folders and globs."""
    monkeypatch.chdir(photos)
    for argument in ("a.jpg", "*.jpg"):
        for _ in range(2):
            done = call_tool("predict", trained.config, varied, argument, "--out", ".")
            assert done.returncode == 0, done.stderr
            assert "1 of 1 photos" in done.stdout
    done = call_tool("predict", trained.config, varied, ".", "--out", ".")
    assert "3 of 3 photos" in done.stdout and "left out: 1 file (1 .txt)" in done.stdout
    done = call_tool("predict", trained.config, varied, "overlays/a.png", "--out", "more")
    assert "1 of 1 photos" in done.stdout


def test_what_a_folder_leaves_out_is_counted(predict, assert_refused, photos):
    for name in ("b.gif", "c.gif", "d.avif", "nosuffix", "._a.jpg", "deep/.thumbs/a.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "a.jpg", photos / name)
    Image.open(photos / "a.jpg").save(photos / "b.gif")
    done, _ = predict(photos)
    assert done.returncode == 0 and "3 of 3 photos" in done.stdout
    assert "left out: 7 files (2 .gif, 2 hidden, 1 .avif, 1 .txt, 1 without suffix)" in done.stdout
    assert ".jpeg .jpg .png" in done.stdout  # what a folder gives
    done, _ = predict(photos, photos / "b.gif", photos / "nosuffix")  # a named file is read
    assert done.returncode == 0 and "5 of 5 photos" in done.stdout
    assert "left out: 5 files" in done.stdout
    done, _ = predict(photos / "deep/.thumbs")
    assert "1 of 1 photos" in done.stdout and "left out" not in done.stdout
    (photos / "gifs").mkdir()
    shutil.copy(photos / "b.gif", photos / "gifs")
    words = "gifs: no photos there, left out: 1 file (1 .gif); folders give .bmp .jpeg .jpg"
    assert_refused(predict(photos / "gifs")[0], words)


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (["b.gif"], 0, "1 of 1 photos"),
        (["nosuffix"], 0, "1 of 1 photos"),
        (["photo.heic", "nosuffix"], 1, "photo.heic: not a readable photo: .heic is not decoded"),
        (["*.tiff"], 2, "*.tiff: no photos there; give files, folders or globs"),
        (["0"], 2, "0: no such file; give files, folders or globs"),
        (["there/is/none.pth"], 2, "give photos: [[CONFIG] MODEL] IMAGES..."),
        (["there/is/none.pth", "a.jpg"], 2, "none.pth: no such file"),
    ],
)
def test_without_a_model_every_kind_of_photo_is_one(
    call_tool, photos, monkeypatch, names, code, words
):
    """Only a checkpoint is taken for the model."""
    Image.open(photos / "a.jpg").save(photos / "b.gif")
    shutil.copy(photos / "a.jpg", photos / "nosuffix")
    (photos / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    monkeypatch.chdir(photos)
    done = call_tool("predict", *names, "--out", "found")
    assert done.returncode == code and words in done.stdout + done.stderr


def test_a_table_says_which_output_is_of_which_photo(predict, photos):
    make_photo(photos / "deep/a.png")
    (photos / "deep/broken.jpg").write_bytes(b"no photo")
    _, out = predict(photos)
    table = json.loads((out / "photos.json").read_text())
    names = {"a.jpg": "a", "b.PNG": "b", "deep/a.png": "deep_a", "deep/c.jpeg": "c"}
    assert table == {str(photos / photo): name for photo, name in names.items()}


# ------------------------------------------------------------------------------ unreadable photos


@pytest.mark.parametrize("content", [b"this is no photo", b"", b"\xff\xd8\xff\xe0"])
def test_an_unreadable_photo_is_named_and_the_others_are_done(predict, photos, content):
    (photos / "a_broken.jpg").write_bytes(content)  # not the last in order
    done, out = predict(photos)
    assert done.returncode == 1
    assert "3 of 4 photos" in done.stdout
    named = [line for line in done.stderr.splitlines() if "a_broken.jpg" in line]
    assert len(named) == 1
    assert "Traceback" not in done.stderr
    assert files_of(out) == outputs("a", "b", "c")


def test_an_empty_file_and_a_missing_one_are_named_so(predict, assert_refused, photos):
    (photos / "empty.png").touch()
    done, _ = predict(photos)
    assert "empty.png: not a readable photo: the file is empty" in done.stderr
    assert_refused(predict(photos / "nothing.jpg")[0], "nothing.jpg: no such file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_no_photo(predict, assert_refused, photos):
    os.mkfifo(photos / "deep/pipe.jpg")
    done, _ = predict(photos / "deep")
    assert done.returncode == 0 and "1 of 1 photos" in done.stdout
    assert_refused(predict(photos / "deep/pipe.jpg")[0], "pipe.jpg: no photos there")


def test_a_name_as_long_as_the_file_system_takes(predict, tmp_path):
    name = "p" * 251
    done, out = predict(make_photo(tmp_path / f"{name}.png"))
    assert done.returncode == 0, done.stderr
    assert files_of(out) == outputs(name)


def test_an_output_folder_that_can_be_none_is_one_line(predict, assert_refused, photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    done, _ = predict(photos)
    assert_refused(done, "out: nothing can be written there")
    assert (tmp_path / "out").read_text() == "a file"


# ----------------------------------------------------------------------- configs and checkpoints


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("model=None", "config: model=None"),
        ("test_dataloader=None", "config: test_dataloader=None"),
        ("test_dataloader.dataset.pipeline=[]", "pipeline=[]: expected transforms"),
        ("model.neck.type=Foo", "config: model.neck (type 'Foo'): Foo is not in the"),
        ("test_dataloader.dataset.pipeline.1.type=Foo", "pipeline.1 (type 'Foo')"),
        ("model.decode_head.in_index=[0,9]", "model.decode_head.in_index=[0, 9]"),
        ("modell.neck=3", "has a setting 'modell'"),
        ("a.b", "a.b: expected KEY=VALUE"),
    ],
)
def test_an_option_that_makes_a_wrong_config_is_one_line(
    predict, assert_refused, photos, option, word
):
    done, out = predict(photos, "--cfg-options", option)
    assert_refused(done, word)
    assert not out.exists()


def test_a_wrong_config_path_is_one_line(predict, assert_refused, photos):
    done, out = predict(photos, config="no/such.py")
    assert_refused(done, "no/such.py")
    assert not out.exists()


def test_a_config_of_another_framework_is_one_line(
    predict, assert_refused, photos, write_config, trained
):
    config = write_config(
        "other", f"_base_ = {str(trained.config)!r}\ndefault_scope = 'mmpretrain'"
    )
    done, out = predict(photos, config=config)
    assert_refused(done, "mmpretrain", "mmdet", "mmseg")
    assert not out.exists()


def test_a_detectors_config_with_a_segmenters_checkpoint_is_one_line(
    predict, assert_refused, photos
):
    done, out = predict(photos, config=PROJECT / "configs/detection/rpn_r50_fpn_1x_coco.py")
    assert_refused(done, "another model")
    assert not out.exists()


def test_proposals_are_not_for_segmenters(predict, assert_refused, photos):
    done, out = predict(photos, "--proposals", photos / "notes.txt")
    assert_refused(done, "--proposals")
    assert not out.exists()


def test_a_checkpoint_with_another_number_of_labels_is_one_line(predict, assert_refused, photos):
    done, out = predict(photos, "--cfg-options", "model.decode_head.num_classes=9")
    assert_refused(done, "conv_seg", "another model")
    assert not out.exists()


def test_a_checkpoint_of_another_model_is_one_line(predict, assert_refused, photos):
    options = ["model.neck.out_channels=32", "model.decode_head.in_channels=[32,32,32,32]"]
    done, out = predict(photos, "--cfg-options", *options)
    assert_refused(done, "another model")
    assert not out.exists()


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_one_line(predict, assert_refused, varied, photos, part):
    whole = varied.read_bytes()
    half = photos / "half.pth"
    half.write_bytes(whole[: int(part * len(whole))])
    done, out = predict(photos / "a.jpg", checkpoint=half)
    assert_refused(done, "half.pth")
    assert not out.exists()


def test_a_file_that_is_no_checkpoint_is_one_line(predict, assert_refused, photos):
    done, _ = predict(photos / "a.jpg", checkpoint=photos / "notes.txt")
    assert_refused(done, "notes.txt")
    done, _ = predict(photos / "a.jpg", checkpoint=photos / "missing.pth")
    assert_refused(done, "missing.pth")


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"epoch": 3}, [1, 2]])
def test_a_checkpoint_without_weights_is_one_line(predict, assert_refused, photos, content):
    torch.save(content, photos / "empty.pth")
    done, out = predict(photos / "a.jpg", checkpoint=photos / "empty.pth")
    assert_refused(done)
    assert not out.exists()


def test_a_plain_state_dict_takes_its_names_from_the_config(predict, varied, photos):
    done, out = predict(photos / "a.jpg")
    expected = Image.open(out / "overlays/a.png")
    torch.save(torch.load(varied, weights_only=False)["state_dict"], photos / "bare.pth")
    done, out = predict(photos / "a.jpg", checkpoint=photos / "bare.pth")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(expected, Image.open(out / "overlays/a.png"))  # with the legend


def test_a_pickle_that_would_run_code_does_not(predict, assert_refused, photos, evil_checkpoint):
    done, out = predict(photos / "a.jpg", checkpoint=evil_checkpoint)
    assert not (evil_checkpoint.parent / "executed").exists()
    assert_refused(done, "evil.pth", "code")
    assert not out.exists()


def test_the_evil_pickle_is_really_evil(evil_checkpoint):
    torch.load(evil_checkpoint, weights_only=False)
    assert (evil_checkpoint.parent / "executed").exists()


def test_weights_of_the_pretraining_are_not_needed(predict, photos, tmp_path):
    """Every weight is in the checkpoint; the file that training started from may be gone."""
    gone = f"model.backbone.checkpoint={tmp_path / 'gone.pth'}"
    done, out = predict(photos / "a.jpg", "--cfg-options", gone)
    assert done.returncode == 0, done.stderr
    assert files_of(out) == outputs("a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_one_line(predict, assert_refused, photos, device):
    done, out = predict(photos / "a.jpg", "--device", device)
    assert_refused(done, device)
    assert not out.exists()


def test_from_the_command_line(run_tool, trained, photos, tmp_path):
    """In a fresh process, with a checkpoint as training leaves it, moved elsewhere."""
    shutil.copy(trained.checkpoint, tmp_path / "model.pth")
    (photos / "broken.jpg").write_bytes(b"no photo")
    arguments = [trained.config, tmp_path / "model.pth", photos, "--out", tmp_path / "out"]
    done = run_tool("predict", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr and "Traceback" not in done.stderr
    assert files_of(tmp_path / "out") == outputs("a", "b", "c")
