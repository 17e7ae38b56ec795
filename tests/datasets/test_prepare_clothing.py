"""tools/prepare_clothing.py and the modules behind it, on generated and real files."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.project import PROJECT
from PIL import Image

pytest.importorskip("rich")
pytest.importorskip("scipy.ndimage")  # loaded here, it need not be loaded by every worker process
savemat = pytest.importorskip("scipy.io").savemat
COCO = pytest.importorskip("pycocotools.coco").COCO

from fpn_neck.cli import prepare_clothing  # noqa: E402
from fpn_neck.datasets import clothing  # noqa: E402
from fpn_neck.datasets.check import kinds  # noqa: E402
from fpn_neck.datasets.clothing import check  # noqa: E402
from fpn_neck.datasets.clothing import prepare as clothing_prepare  # noqa: E402
from fpn_neck.utils.command_line import run_tool  # noqa: E402

REAL = PROJECT.parent / "shared" / "clothing"
HEIGHT, WIDTH = 61, 47
TRAIN, VAL = (1, 2, 5), (3, 8)  # with gaps, and of both splits


def run(*args, workers=1):
    """As the command line does; the exit code."""
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: prepare_clothing.main([*map(str, args), "--workers", str(workers)]))
    return stop.value.code


def a_mask(number: int) -> np.ndarray:
    """Label blobs of many sizes, tiny ones included; (HEIGHT, WIDTH) uint8."""
    rng = np.random.default_rng(number)
    coarse = rng.choice([0, 0, 0, 2, 14, 39, 41, 58], size=(HEIGHT // 6 + 1, WIDTH // 6 + 1))
    return np.kron(coarse, np.ones((6, 6), int))[:HEIGHT, :WIDTH].astype(np.uint8)


def save_photo(path: Path, number: int, **options) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def photo(root: Path, number: int) -> Path:
    return root / f"jpeg_images/IMAGES/img_{number:04d}.jpeg"


def mask(root: Path, number: int) -> Path:
    return root / f"png_masks/MASKS/seg_{number:04d}.png"


@pytest.fixture
def kaggle(tmp_path):
    root = tmp_path / "kaggle"
    (root / "jpeg_images/IMAGES").mkdir(parents=True)
    (root / "png_masks/MASKS").mkdir(parents=True)
    for number in TRAIN + VAL:
        save_photo(photo(root, number), number)
        Image.fromarray(a_mask(number)).save(mask(root, number))
    rows = [f"{i},{name}\n" for i, name in enumerate(clothing.CLASSES)]
    (root / "labels.csv").write_text("i,label_list\n" + "".join(rows))
    return root


@pytest.fixture
def ccp(tmp_path):
    """The authors' repository: five photos with pixel labels, two without."""
    root = tmp_path / "ccp"
    for folder in ("photos", "annotations/pixel-level", "annotations/image-level"):
        (root / folder).mkdir(parents=True)
    for number in (*TRAIN, *VAL, 1005, 1006):
        save_photo(root / f"photos/{number:04d}.jpg", number)
    for number in TRAIN + VAL:
        # MATLAB's zeros() are doubles, and scipy may or may not shrink them.
        values = a_mask(number).astype(np.float64 if number == 1 else np.uint8)
        savemat(root / f"annotations/pixel-level/{number:04d}.mat", {"groundtruth": values})
    savemat(root / "label_list.mat", {"label_list": cells(clothing.CLASSES)})
    return root


def cells(names, nested=False) -> np.ndarray:
    """A 1 x n MATLAB cell array of strings, or of cells that hold one string each."""
    row = np.empty((1, len(names)), object)
    for i, name in enumerate(names):
        row[0, i] = cells([name]) if nested else name
    return row


def digest(path: Path) -> str:
    """Instead of the content, whose differences pytest would explain at length."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(root: Path) -> dict[str, str | None]:
    return {
        path.relative_to(root).as_posix(): digest(path) if path.is_file() else None
        for path in root.rglob("*")
    }


def check_coco(root: Path, masks: dict[int, np.ndarray], out: Path | None = None) -> dict:
    """The json load, and per photo and label the instances make up exactly the mask."""
    seen = {}
    for split in ("train", "val"):
        coco = COCO((out or root) / "annotations" / f"instances_{split}.json")
        assert [coco.cats[i]["name"] for i in range(1, 59)] == list(clothing.CLASSES[1:])
        assert len(coco.cats) == 58
        assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
        for number, image in coco.imgs.items():
            assert clothing.split_of(number) == split
            assert Image.open(root / image["file_name"]).size == (image["width"], image["height"])
            rebuilt = np.zeros_like(masks[number])
            for instance in coco.imgToAnns[number]:
                inside = coco.annToMask(instance).astype(bool)
                assert not rebuilt[inside].any(), "instances overlap"
                rebuilt[inside] = instance["category_id"]
                rows, columns = np.nonzero(inside)
                x, y, width, height = instance["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
                assert instance["area"] == inside.sum()
                assert instance["iscrowd"] == (inside.sum() < 64)
            assert np.array_equal(rebuilt, masks[number])
            seen[number] = split
    assert seen.keys() == masks.keys()
    return seen


# --- what is accepted -----------------------------------------------------------------------------


def test_kaggle_folder_with_gaps(kaggle, capsys):
    before = tree(kaggle)
    assert run(kaggle) == 0
    masks = {number: a_mask(number) for number in TRAIN + VAL}
    seen = check_coco(kaggle, masks)
    assert seen == {1: "train", 2: "train", 5: "train", 3: "val", 8: "val"}
    assert before.items() <= tree(kaggle).items()
    assert "5 photos (3 train, 2 val)" in capsys.readouterr().out


def test_annotations_elsewhere_leave_the_source_as_it_is(kaggle, tmp_path):
    before, out = tree(kaggle), tmp_path / "new" / "deep"
    assert run(kaggle, "--out", out) == 0
    assert tree(kaggle) == before
    assert sorted(tree(out)) == [
        "annotations",
        "annotations/instances_train.json",
        "annotations/instances_val.json",
    ]
    check_coco(kaggle, {number: a_mask(number) for number in TRAIN + VAL}, out)


def test_kaggle_folder_with_png_photos_and_jpeg_masks_beside(kaggle):
    shutil.copytree(kaggle / "png_masks", kaggle / "jpeg_masks")  # is not read
    (kaggle / "png_images/IMAGES").mkdir(parents=True)
    for number in TRAIN + VAL:
        Image.open(photo(kaggle, number)).save(kaggle / f"png_images/IMAGES/img_{number:04d}.png")
    shutil.rmtree(kaggle / "jpeg_images")
    assert run(kaggle) == 0
    train = json.loads((kaggle / "annotations/instances_train.json").read_text())
    assert train["images"][0]["file_name"] == "png_images/IMAGES/img_0001.png"


@pytest.mark.parametrize("null", ["null", "", "NaN", "nan"])
def test_null_as_pandas_writes_it(kaggle, null):
    text = (kaggle / "labels.csv").read_text().replace("0,null", f"0,{null}", 1)
    (kaggle / "labels.csv").write_text(text)
    assert run(kaggle) == 0


@pytest.mark.parametrize("nested", [False, True])
def test_authors_repository(ccp, tmp_path, capsys, nested):
    savemat(ccp / "label_list.mat", {"label_list": cells(clothing.CLASSES, nested)})
    before, out = tree(ccp), tmp_path / "out"
    assert run(ccp, "--out", out, workers=3) == 0
    assert tree(ccp) == before
    assert "2 photos without pixel labels were left out" in capsys.readouterr().out
    masks = {number: a_mask(number) for number in TRAIN + VAL}
    for number, expected in masks.items():
        assert digest(photo(out, number)) == digest(ccp / f"photos/{number:04d}.jpg")
        with Image.open(mask(out, number)) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(image), expected)
    assert (out / "labels.csv").read_text().splitlines() == [
        "i,label_list",
        *(f"{i},{name}" for i, name in enumerate(clothing.CLASSES)),
    ]
    check_coco(out, masks)
    assert not list(tmp_path.glob(".*")) and not list(out.glob(".*")), "leftovers"
    assert run(out) == 0  # what it makes, it accepts


def test_a_second_run_replaces_the_annotations(kaggle):
    (kaggle / "annotations").mkdir()
    (kaggle / "annotations/instances_val.json").write_text("old")
    (kaggle / "annotations/mine.json").write_text("mine")
    assert run(kaggle) == 0
    check_coco(kaggle, {number: a_mask(number) for number in TRAIN + VAL})
    assert (kaggle / "annotations/mine.json").read_text() == "mine"


def test_mask_of_null_only_is_taken_and_reported(kaggle, capsys):
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8)
    Image.fromarray(nothing).save(mask(kaggle, 2))
    assert run(kaggle) == 0
    told = "jpeg_images/IMAGES/img_0002.jpeg: taken, although its mask is null everywhere"
    assert told in capsys.readouterr().out
    masks = {number: a_mask(number) for number in TRAIN + VAL}
    assert check_coco(kaggle, masks | {2: nothing})[2] == "train"


# --- instances and split --------------------------------------------------------------------------


def test_tiny_components_are_ignored_not_dropped():
    labels = np.zeros((30, 40), np.uint8)
    labels[0:7, 0:9] = 14  # 63 pixels
    labels[10:18, 0:8] = 14  # 64 pixels
    labels[20:30, 30:40] = 58
    found = clothing_prepare.instances(labels)
    assert [(one["category_id"], one["area"], one["iscrowd"]) for one in found] == [
        (14, 63, 1),
        (14, 64, 0),
        (58, 100, 0),
    ]
    assert found[2]["bbox"] == [30, 20, 10, 10]


def test_corners_connect_and_labels_do_not():
    labels = np.zeros((20, 30), np.uint8)
    labels[:10, :10] = labels[10:, 10:20] = 2
    labels[:10, 10:20] = 3
    assert [(one["category_id"], one["area"]) for one in clothing_prepare.instances(labels)] == [
        (2, 200),
        (3, 100),
    ]
    assert clothing_prepare.instances(np.zeros((5, 5), np.uint8)) == []
    assert len(clothing_prepare.instances(np.full((9, 9), 58, np.uint8))) == 1  # no null at all


def test_split_is_fixed():
    validation = [number for number in range(1, 1005) if clothing.split_of(number) == "val"]
    assert validation[:8] == [3, 8, 17, 20, 34, 41, 55, 62]
    assert clothing.split_of(1) == clothing.split_of(1003) == "train"
    assert 0.10 < len(validation) / 1004 < 0.15


# --- what is refused ------------------------------------------------------------------------------


def _jpeg_only(root):
    (root / "jpeg_masks/MASKS").mkdir(parents=True)
    for number in TRAIN + VAL:
        name = root / f"jpeg_masks/MASKS/seg_{number:04d}.jpeg"
        Image.fromarray(a_mask(number)).save(name, quality=75)
    shutil.rmtree(root / "png_masks")


def _jpeg_named_png(root):
    Image.fromarray(a_mask(2)).save(mask(root, 2), format="JPEG", quality=75)


def _invented(number):
    """How many pixels a JPEG of this mask makes into no label."""
    buffer = io.BytesIO()
    Image.fromarray(a_mask(number)).save(buffer, format="JPEG", quality=75)
    return int((np.asarray(Image.open(buffer)) > 58).sum())


def _mode(mode):
    def spoil(root):
        Image.fromarray(a_mask(2)).convert(mode).save(mask(root, 2))

    return spoil


def _palette(root):
    image = Image.fromarray(a_mask(2))
    image.putpalette(list(range(256)) * 3)
    image.save(mask(root, 2))


def _too_high(root):
    values = a_mask(2)
    values[4, :5] = (59, 60, 200, 255, 59)
    Image.fromarray(values).save(mask(root, 2))


def _cut(path, keep):
    def spoil(root):
        data = path(root, 2).read_bytes()
        path(root, 2).write_bytes(data[: int(len(data) * keep)])

    return spoil


def _damaged_png(root):
    data = bytearray(mask(root, 2).read_bytes())
    start = data.index(b"IDAT") + 4
    data[start + 20 : start + 30] = bytes(10)
    mask(root, 2).write_bytes(data)


def _resized(root):
    Image.fromarray(a_mask(2)[:-1]).save(mask(root, 2))


def _rotated(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_photo(photo(root, 2), 2, exif=exif)


def _labels(change):
    def spoil(root):
        lines = (root / "labels.csv").read_text().splitlines(keepends=True)
        (root / "labels.csv").write_text("".join(change(lines)))

    return spoil


SEG, IMG = "png_masks/MASKS/seg_0002.png", "jpeg_images/IMAGES/img_0002.jpeg"
KAGGLE_REFUSALS = {
    "only JPEG masks": (
        _jpeg_only,
        kinds.LOSSY,
        "jpeg_masks/MASKS/seg_0002.jpeg",
        f"JPEG, mode L, {_invented(2)} of {HEIGHT * WIDTH} pixels are not labels",
    ),
    "JPEG named png": (_jpeg_named_png, kinds.LOSSY, SEG, f"{_invented(2)} of {HEIGHT * WIDTH}"),
    "RGB": (_mode("RGB"), kinds.COLOURS, SEG, "PNG, mode RGB"),
    "RGBA": (_mode("RGBA"), kinds.COLOURS, SEG, "PNG, mode RGBA"),
    "grey with alpha": (_mode("LA"), kinds.COLOURS, SEG, "PNG, mode LA"),
    "16 bit": (_mode("I;16"), check.NOT_GREY, SEG, "PNG, mode I;16"),
    "palette": (_palette, kinds.COLOURS, SEG, "PNG, mode P"),
    "no label": (
        _too_high,
        kinds.NO_LABEL,
        SEG,
        f"5 of {HEIGHT * WIDTH} pixels hold 59, 60, 200, 255; labels are 0..58",
    ),
    "no mask": (lambda root: mask(root, 2).unlink(), kinds.NO_MASK, IMG, "number 2"),
    "no photo": (lambda root: photo(root, 2).unlink(), kinds.NO_PHOTO, SEG, "number 2"),
    "sizes": (_resized, kinds.SIZE, SEG, "mask 47x60, photo 47x61"),
    "rotated": (_rotated, check.ROTATED, IMG, "orientation 6"),
    "truncated photo": (_cut(photo, 0.6), kinds.UNREADABLE, IMG, "truncated"),
    "truncated mask": (_cut(mask, 0.6), kinds.UNREADABLE, SEG, "bytes, "),
    "empty photo": (_cut(photo, 0), kinds.UNREADABLE, IMG, "0 bytes"),
    "empty mask": (_cut(mask, 0), kinds.UNREADABLE, SEG, "0 bytes"),
    "damaged mask": (_damaged_png, kinds.UNREADABLE, SEG, "bytes, "),
    "no labels": (
        lambda root: (root / "labels.csv").unlink(),
        check.LABELS,
        "labels.csv",
        "missing",
    ),
    "empty labels": (_labels(lambda rows: []), kinds.UNREADABLE, "labels.csv", "0 bytes"),
    "58 labels": (_labels(lambda rows: rows[:-1]), check.LABELS, "labels.csv", "58 labels"),
    "60 labels": (
        _labels(lambda rows: [*rows, "59,veil\n"]),
        check.LABELS,
        "labels.csv",
        "60 labels",
    ),
    "labels in another order": (
        _labels(lambda rows: [*rows[:3], "2,belt\n", "3,bag\n", *rows[5:]]),
        check.LABELS,
        "labels.csv",
        "'2,belt' instead of '2,bag'",
    ),
}


def assert_refused(code, output, kind, file, value):
    assert code == 1
    line = next(line for line in output.splitlines() if f"  {file}: " in line)
    assert value in line
    remedy = check.REMEDIES.get(kind, kind.remedy)
    assert f"{kind.rule}: " in output and f"Remedy: {remedy}." in output
    assert "Nothing was written." in output


@pytest.mark.parametrize("case", KAGGLE_REFUSALS)
def test_kaggle_refusals(kaggle, tmp_path, capsys, case):
    spoil, kind, file, value = KAGGLE_REFUSALS[case]
    spoil(kaggle)
    before = tree(tmp_path)
    code = run(kaggle)
    assert_refused(code, capsys.readouterr().out, kind, file, value)
    assert tree(tmp_path) == before


def test_jpeg_does_invent_labels():
    assert _invented(2) > 0  # or the two JPEG cases above would prove little


def _mat(values, name="groundtruth"):
    return lambda root: savemat(root / "annotations/pixel-level/0002.mat", {name: values})


def _label_mat(names):
    return lambda root: savemat(root / "label_list.mat", {"label_list": cells(names)})


MAT = "annotations/pixel-level/0002.mat"
CCP_REFUSALS = {
    "no photo": (
        lambda root: (root / "photos/0002.jpg").unlink(),
        kinds.NO_PHOTO,
        MAT,
        "number 2",
    ),
    "empty photo": (
        lambda root: (root / "photos/0002.jpg").write_bytes(b""),
        kinds.UNREADABLE,
        "photos/0002.jpg",
        "0 bytes",
    ),
    "empty mat": (
        lambda root: (root / MAT).write_bytes(b""),
        kinds.UNREADABLE,
        MAT,
        "0 bytes",
    ),
    "no mat": (
        lambda root: (root / MAT).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9),
        kinds.UNREADABLE,
        MAT,
        "bytes, ",
    ),
    "variable": (_mat(a_mask(2), "tags"), check.NO_VARIABLE, MAT, "holds tags, not groundtruth"),
    "59": (_mat(a_mask(2) + 1), kinds.NO_LABEL, MAT, "hold 59; labels are 0..58"),
    "negative": (_mat(a_mask(2) - 3.0), kinds.NO_LABEL, MAT, "hold -3.0, -1.0; labels are 0..58"),
    "fraction": (_mat(a_mask(2) / 2), kinds.NO_LABEL, MAT, "hold 19.5, 20.5; labels are 0..58"),
    "nan": (
        _mat(np.where(a_mask(2) == 2, np.nan, 1.0)),
        kinds.NO_LABEL,
        MAT,
        "hold nan; labels are 0..58",
    ),
    "three axes": (_mat(np.zeros((2, 3, 4))), kinds.NO_LABEL, MAT, "shape (2, 3, 4)"),
    "sizes": (_mat(a_mask(2).T), kinds.SIZE, MAT, "mask 61x47, photo 47x61"),
    "no labels": (
        lambda root: (root / "label_list.mat").unlink(),
        check.LABELS,
        "label_list.mat",
        "missing",
    ),
    "58 labels": (
        _label_mat(clothing.CLASSES[:-1]),
        check.LABELS,
        "label_list.mat",
        "58 labels",
    ),
    "labels in another order": (
        _label_mat(("null", "bag", *clothing.CLASSES[2:])),
        check.LABELS,
        "label_list.mat",
        "'1,bag' instead of '1,accessories'",
    ),
}


@pytest.mark.parametrize("case", CCP_REFUSALS)
def test_ccp_refusals(ccp, tmp_path, capsys, case):
    spoil, kind, file, value = CCP_REFUSALS[case]
    spoil(ccp)
    before = tree(tmp_path)
    code = run(ccp, "--out", tmp_path / "new" / "out")
    assert_refused(code, capsys.readouterr().out, kind, file, value)
    assert tree(tmp_path) == before


def test_all_findings_are_collected_and_long_lists_cut(kaggle, capsys):
    _too_high(kaggle)
    _cut(photo, 0.6)(kaggle)
    _labels(lambda rows: rows[:-1])(kaggle)
    for number in range(100, 122):
        Image.fromarray(a_mask(number)).save(mask(kaggle, number))
    assert run(kaggle) == 1
    output = capsys.readouterr().out
    for kind in (kinds.NO_LABEL, kinds.UNREADABLE, check.LABELS):
        assert f"{kind.rule}: 1. Remedy" in output
    assert f"{kinds.NO_PHOTO.rule}: 22. Remedy" in output
    assert "  … and 2 more" in output
    assert output.count("number 1") == 20


# --- wrong usage ----------------------------------------------------------------------------------


def assert_usage_error(code, capsys, words):
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert len(output.err.splitlines()) == 1 and words in output.err


def test_source_without_data(tmp_path, capsys):
    assert_usage_error(run(tmp_path), capsys, "holds no pair of photo and mask")
    assert_usage_error(run(tmp_path / "nowhere"), capsys, "holds no pair of photo and mask")


def test_conversion_needs_a_folder_of_its_own(ccp, kaggle, capsys):
    assert_usage_error(run(ccp), capsys, "--out")
    assert_usage_error(run(ccp, "--out", ccp), capsys, "--out")
    before = tree(kaggle)
    assert_usage_error(run(ccp, "--out", kaggle), capsys, "jpeg_images exists: remove it")
    assert tree(kaggle) == before


def test_out_that_is_a_file(kaggle, capsys):
    assert_usage_error(run(kaggle, "--out", kaggle / "labels.csv"), capsys, "labels.csv")


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_workers(kaggle, capsys, workers):
    assert run(kaggle, workers=workers) == 2
    assert "--workers" in capsys.readouterr().err


def test_help_states_the_rule_for_tiny_components(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_clothing.main(["--help"])
    assert stop.value.code == 0
    assert "fewer than 64 pixels get iscrowd=1" in " ".join(capsys.readouterr().out.split())


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/clothing is absent")
def test_real_photos(tmp_path):
    numbers = sorted(int(path.stem[-4:]) for path in (REAL / "png_masks/MASKS").glob("*.png"))
    chosen = [number for number in numbers if clothing.split_of(number) == "val"][:2] + numbers[:2]
    for path in (photo, mask):
        path(tmp_path, 0).parent.mkdir(parents=True)
        for number in chosen:
            shutil.copyfile(path(REAL, number), path(tmp_path, number))
    shutil.copyfile(REAL / "labels.csv", tmp_path / "labels.csv")
    assert run(tmp_path) == 0
    masks = {number: np.asarray(Image.open(mask(tmp_path, number))) for number in chosen}
    seen = check_coco(tmp_path, masks)
    assert sorted(seen.values()) == ["train", "train", "val", "val"]
