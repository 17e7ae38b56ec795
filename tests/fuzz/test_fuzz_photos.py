"""tools/predict.py on photo files of any bytes: each is done or named, and none ends the tool."""

import re
import shutil
from collections import Counter

import pytest
from helpers import mutations

pytest.importorskip("mmseg")
from PIL import Image  # noqa: E402

BATCH = 2500  # files that one process is given
MEMORY = 2e9  # bytes, of a process that reads small photos and is told of large ones


def predict(run_tool, segmenter, folder, files):
    """Run it on a folder of these files; {name: done or not}, and the finished process."""
    photos, out = folder / "photos", folder / "out"
    photos.mkdir()
    for name, data in files:
        (photos / name).write_bytes(data)
    arguments = [segmenter.config, segmenter.checkpoint, photos, "--out", out]
    seconds = 300 + 2 * len(files)  # ten times what it takes
    process = run_tool("predict", *arguments, seconds=seconds)
    assert process.returncode in (0, 1), process.stderr
    assert "Traceback" not in process.stderr
    # The lines after the progress bar, and after what the decoders' own libraries print.
    named = re.findall(rf"^{re.escape(str(photos))}/(\S+): \S", process.stderr, re.MULTILINE)
    assert len(named) == len(set(named))
    written = {path.name for path in (out / "labels").glob("*.png")}
    return {name: f"{name.rpartition('.')[0]}.png" in written for name, _ in files}, named, process


@pytest.mark.parametrize("count", [228, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_file_is_done_or_named(run_tool, segmenter, tmp_path, count, record_property):
    files = mutations.mutants(count, seed=count)
    answers = Counter()
    for start in range(0, count, BATCH):
        batch = files[start : start + BATCH]
        folder = tmp_path / str(start)
        folder.mkdir()
        done, named, process = predict(run_tool, segmenter, folder, batch)
        assert sorted(named) == sorted(name for name in done if not done[name])
        assert process.returncode == (1 if named else 0)
        assert f"{sum(done.values())} of {len(batch)} photos" in process.stdout
        assert process.memory < MEMORY, f"{process.memory / 1e9:.1f} GB"
        for name in done:
            if "-unchanged." in name and "GIF" not in name:  # not every OpenCV reads those
                assert done[name], name
        for name in filter(done.get, done):  # a whole label map of the model's labels
            with Image.open(folder / "out/labels" / f"{name.rpartition('.')[0]}.png") as labels:
                assert labels.mode == "P" and labels.getextrema()[1] < 3
        answers.update("right" if ok else "refused" for ok in done.values())
        shutil.rmtree(folder)
    record_property("fuzz", dict(answers))
    assert answers.total() == count and min(answers.values()) > 0.1 * count


def test_small_files_of_many_pixels_are_named_before_they_are_decoded(
    run_tool, segmenter, tmp_path
):
    """Decoding one of 32000 x 32000 px, and what follows, would take 100 GB."""
    kinds = mutations.originals()
    files = [
        (f"{kind}-{size}.png", mutations.declare(kinds[kind], size, size))
        for kind in ("JPEG-RGB-0", "PNG-RGB-5", "BMP-RGB-10", "GIF-P-16")
        for size in (32_000, 11_000)
    ]
    assert max(len(data) for _, data in files) < 10_000
    done, named, process = predict(run_tool, segmenter, tmp_path, files)
    assert len(named) == len(files) and process.memory < MEMORY
    assert process.stderr.count("more than 100 million px") == len(files)
