"""fpn_neck.datasets.shapes.scenes, fpn_neck.datasets.shapes.write and tools/make_shapes.py."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

coco_mask = pytest.importorskip("pycocotools.mask")
COCO = pytest.importorskip("pycocotools.coco").COCO

from fpn_neck.cli import make_shapes  # noqa: E402
from fpn_neck.datasets.shapes import scenes as drawing  # noqa: E402
from fpn_neck.datasets.shapes.scenes import CLASSES, PALETTE, make_scene  # noqa: E402
from fpn_neck.datasets.shapes.write import write_shapes  # noqa: E402
from fpn_neck.utils.command_line import run_tool  # noqa: E402

SMALL = {"train": 5, "val": 3, "size": (96, 128), "workers": 1}


@pytest.fixture(scope="module")
def scenes():
    return [make_scene((7, i)) for i in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", **SMALL)


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def instances_of(scenes):
    return [instance for scene in scenes for instance in scene.instances]


# ---------------------------------------------------------------------------------- scenes


def test_names_and_colours_belong_together():
    assert CLASSES[0] == "background"
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == len({tuple(c) for c in PALETTE})
    assert all(len(c) == 3 and min(c) >= 0 and max(c) <= 255 for c in PALETTE)


@pytest.mark.parametrize("size", [(256, 320), (64, 64), (97, 201), (300, 70)])
def test_types_and_shapes(size):
    scene = make_scene(0, size)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == size and scene.labels.dtype == np.uint8
    assert scene.instances
    assert all(i.mask.shape == size and i.mask.dtype == bool for i in scene.instances)


def test_a_seed_gives_one_scene():
    first, again, other = make_scene(3), make_scene(3), make_scene(4)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert [i.bbox for i in first.instances] == [i.bbox for i in again.instances]
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.labels, other.labels)


def test_a_generator_is_advanced():
    rng = np.random.default_rng(3)
    first, second = make_scene(rng), make_scene(rng)
    assert np.array_equal(first.image, make_scene(3).image)
    assert not np.array_equal(first.image, second.image)


def test_labels_are_the_union_of_the_masks(scenes):
    for scene in scenes:
        owners = sum(i.mask.astype(int) for i in scene.instances)
        assert owners.max() == 1  # no pixel belongs to two
        for category in range(1, len(CLASSES)):
            masks = [i.mask for i in scene.instances if i.category_id == category]
            union = np.any(masks, axis=0) if masks else np.zeros(scene.labels.shape, bool)
            assert np.array_equal(scene.labels == category, union)
        assert np.array_equal(scene.labels == 0, owners == 0)


def test_boxes_are_tight(scenes):
    for instance in instances_of(scenes):
        x, y, w, h = instance.bbox
        rows, columns = np.nonzero(instance.mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())


def test_all_classes_and_sizes_occur(scenes):
    instances = instances_of(scenes)
    sides = np.array([max(i.bbox[2:]) for i in instances])
    assert {i.category_id for i in instances} == set(range(1, len(CLASSES)))
    # Log-uniform: each octave from 8 to 256 px has a fifth, the last less (cut by the picture).
    share = np.histogram(sides, [0, 16, 32, 64, 128, 257])[0] / len(sides)
    assert share.min() > 0.08 and share.max() < 0.35
    assert sides.min() < 12 and sides.max() > 180


def test_number_of_objects(scenes):
    counts = [len(scene.instances) for scene in scenes]
    assert min(counts) >= 1 and max(counts) <= drawing.OBJECTS[1]
    assert 4 < np.mean(counts) < 8


def test_small_pictures_hold_no_object_longer_than_they_are():
    scenes = [make_scene((1, i), (64, 200)) for i in range(20)]
    # px, from areas: a disc of 64 px fills 3217, a square of that diagonal or side at most 4096
    assert max(i.full_area for i in instances_of(scenes)) <= 64 * 64


def test_objects_hide_each_other_but_never_too_much(scenes):
    visible = np.array([np.count_nonzero(i.mask) / i.full_area for i in instances_of(scenes)])
    assert visible.min() >= drawing.MIN_VISIBLE and visible.max() == 1
    inside = [  # not touching the edge, so only another object can hide a part of them
        i
        for scene in scenes
        for i in scene.instances
        if min(i.bbox[:2]) > 0 and i.bbox[0] + i.bbox[2] < 320 and i.bbox[1] + i.bbox[3] < 256
    ]
    hidden = [np.count_nonzero(i.mask) < i.full_area for i in inside]
    assert 0.1 < np.mean(hidden) < 0.9


def test_objects_stand_out_from_what_is_around_them(scenes):
    for scene in scenes[:8]:
        image = scene.image.astype(np.float64)
        for instance in scene.instances:
            mask = Image.fromarray(instance.mask.astype(np.uint8) * 255)
            near = np.asarray(mask.filter(ImageFilter.MaxFilter(9))) > 0
            rim = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0
            around = image[near & ~rim].mean(0)
            # of MIN_CONTRAST = 80 at painting, light, relief and later neighbours may take some
            assert np.linalg.norm(image[instance.mask].mean(0) - around) > 40


def filled(category: str, side: int) -> float:
    """Share of its bounding square that an upright outline fills."""
    stamp = drawing._coverage(CLASSES.index(category), side, 0.0, 3)
    return np.asarray(stamp, float).sum() / 255 / side**2


@pytest.mark.parametrize("side", [8, 30, 64, 200])
@pytest.mark.parametrize(
    ("category", "share"),
    [
        ("circle", np.pi / 4),
        ("square", 1 / 2),  # stands on a corner
        ("triangle", np.sqrt(3) / 4),
        ("ring", np.pi / 4 * (1 - 0.55**2)),
        ("cross", 0.34 * (2 - 0.34)),
    ],
)
def test_outlines_have_the_area_of_their_geometry(category, share, side):
    # 0.02, plus half a subpixel of rim all around, which counts on small ones
    assert filled(category, side) == pytest.approx(share, abs=0.02 + 0.5 / side)


@pytest.mark.parametrize("size", [(63, 200), (200, 0), (-256, 320)])
def test_too_small_a_size_is_refused(size):
    with pytest.raises(ValueError, match=rf"={min(size)}: expected at least 64"):
        make_scene(0, size)


@pytest.mark.parametrize("size", [256, (256,), (256.5, 320), "no", (256, 320, 3)])
def test_a_size_of_another_type_is_refused(size):
    with pytest.raises(TypeError, match="whole number"):
        make_scene(0, size)


# ------------------------------------------------------------------------------------ files


def test_the_layout(folder):
    pictures = [
        f"{split}/{kind}/{number:06d}.{ending}"
        for split, count in (("train", 5), ("val", 3))
        for kind, ending in (("images", "jpg"), ("labels", "png"))
        for number in range(1, count + 1)
    ]
    others = ["shapes.json", *(f"annotations/instances_{s}.json" for s in ("train", "val"))]
    assert sorted(digests(folder)) == sorted(pictures + others)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # nothing left beside it


def test_shapes_json_says_what_is_there(folder):
    about = json.loads((folder / "shapes.json").read_text())
    objects = about.pop("objects")
    assert about == {
        "version": drawing.VERSION,
        "seed": 0,
        "size": [96, 128],
        "train": 5,
        "val": 3,
        "classes": list(CLASSES),
        "palette": PALETTE,
    }
    for split, count in objects.items():
        coco = json.loads((folder / f"annotations/instances_{split}.json").read_text())
        assert len(coco["annotations"]) == count > 0


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("val", 1)])
def test_files_hold_the_scenes(folder, split, number):
    for index, path in enumerate(sorted((folder / split / "labels").iterdir())):
        scene = make_scene((0, number, index), SMALL["size"])
        with Image.open(path) as labels:
            assert labels.mode == "L"
            assert np.array_equal(np.asarray(labels), scene.labels)
        with Image.open(folder / split / "images" / f"{path.stem}.jpg") as image:
            assert image.mode == "RGB"
            error = np.asarray(image, int) - scene.image
        assert np.abs(error).mean() < 3  # of 255; JPEG at quality 95


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_file_agrees_with_the_labels(folder, split, capsys):
    coco = COCO(folder / f"annotations/instances_{split}.json")
    capsys.readouterr()
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(
        enumerate(CLASSES[1:], 1)
    )
    assert len(coco.getImgIds()) == SMALL[split]
    for image in coco.loadImgs(coco.getImgIds()):
        path = folder / split / "images" / image["file_name"]
        with Image.open(path) as picture:
            assert picture.size == (image["width"], image["height"])
        with Image.open(folder / split / "labels" / f"{path.stem}.png") as png:
            labels = np.asarray(png)
        painted = np.zeros_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["iscrowd"] == 0
            assert annotation["area"] == np.count_nonzero(mask) > 0
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            assert not painted[mask].any()
            painted[mask] = annotation["category_id"]
        assert np.array_equal(painted, labels)


def test_train_and_val_differ(folder):
    images = [p.read_bytes() for p in folder.glob("*/images/*.jpg")]
    assert len(images) == len(set(images)) == 8


def test_workers_do_not_change_the_files(folder, tmp_path):
    assert digests(write_shapes(tmp_path / "data", **SMALL | {"workers": 3})) == digests(folder)


def test_the_seed_changes_every_picture(folder, tmp_path):
    other, here = digests(write_shapes(tmp_path / "data", **SMALL, seed=1)), digests(folder)
    assert other.keys() == here.keys()
    assert all(other[name] != here[name] for name in here)


def test_more_scenes_keep_the_first_ones(folder, tmp_path):
    more = digests(write_shapes(tmp_path / "data", **SMALL | {"train": 7}))
    here = digests(folder)
    same = [name for name in here if name.endswith((".jpg", ".png"))]
    assert len(same) == 16 and all(more[name] == here[name] for name in same)


def test_progress_is_told_of_every_scene(tmp_path):
    calls = []
    write_shapes(tmp_path / "data", **SMALL, progress=lambda: calls.append(1))
    assert len(calls) == 8


def test_the_same_shapes_are_reused(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    calls = []
    again = write_shapes(folder, **SMALL | {"workers": 2}, progress=lambda: calls.append(1))
    assert again == folder and not calls
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 6}, "train 5, not 6"),
        ({"val": 1}, "val 3, not 1"),
        ({"seed": 9}, "seed 0, not 9"),
        ({"size": (128, 96)}, r"size \[96, 128\], not \[128, 96\]"),
    ],
)
def test_other_shapes_are_refused_and_kept(folder, change, message):
    before = digests(folder)
    with pytest.raises(ValueError, match=f"{message}; .*another folder or delete"):
        write_shapes(folder, **SMALL | change)
    assert digests(folder) == before


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", "7"])
def test_a_folder_of_someone_else_is_refused_and_kept(tmp_path, content):
    (tmp_path / "thesis.txt").write_text("years of work")
    if content is not None:
        (tmp_path / "shapes.json").write_text(content)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match="stays unchanged; name another folder"):
        write_shapes(tmp_path, **SMALL)
    assert digests(tmp_path) == before


def test_a_file_is_refused_and_kept(tmp_path):
    path = tmp_path / "data"
    path.write_text("years of work")
    with pytest.raises(ValueError, match="name another folder"):
        write_shapes(path, **SMALL)
    assert path.read_text() == "years of work"


def test_an_empty_folder_and_missing_parents_are_filled(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert digests(write_shapes(root, **SMALL)) == digests(folder)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path, workers, stop):
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) == 6:
            raise stop

    with pytest.raises(stop):
        write_shapes(tmp_path / "data", **SMALL | {"workers": workers}, progress=interrupt)
    assert len(calls) == 6 and list(tmp_path.iterdir()) == []


def test_of_two_that_write_at_once_the_first_wins(folder, tmp_path):
    root, calls = tmp_path / "data", []

    def be_overtaken():
        calls.append(1)
        if len(calls) == 4:
            write_shapes(root, **SMALL)

    assert write_shapes(root, **SMALL, progress=be_overtaken) == root
    assert digests(root) == digests(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_overtaken_by_other_shapes_is_an_error(tmp_path):
    root = tmp_path / "data"

    def be_overtaken():
        write_shapes(root, **SMALL, seed=5)

    with pytest.raises(ValueError, match="seed 5, not 0"):
        write_shapes(root, **SMALL, progress=be_overtaken)
    assert json.loads((root / "shapes.json").read_text())["seed"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"train": 0}, ValueError, "train=0: expected at least 1"),
        ({"val": -1}, ValueError, "val=-1: expected at least 1"),
        ({"seed": -1}, ValueError, "seed=-1: expected at least 0"),
        ({"workers": 0}, ValueError, "workers=0: expected at least 1"),
        ({"size": (32, 128)}, ValueError, "height=32: expected at least 64"),
        ({"train": 2.5}, TypeError, "train=2.5: expected a whole number"),
        ({"seed": None}, TypeError, "seed=None: expected a whole number"),
        ({"size": 256}, TypeError, "size=256: expected two whole numbers"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_written(tmp_path, wrong, error, message):
    with pytest.raises(error, match=message):
        write_shapes(tmp_path / "data", **SMALL | wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_default_number_of_workers(folder, tmp_path):
    assert digests(write_shapes(tmp_path / "data", **SMALL | {"workers": None})) == digests(folder)


# ------------------------------------------------------------------------------------- tool


@pytest.fixture
def tool():
    """Run the tool as the command line does; the exit code."""
    pytest.importorskip("rich")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            run_tool(lambda: make_shapes.main([*map(str, arguments)]))
        return stop.value.code or 0

    return run


ARGUMENTS = ["--train", "5", "--val", "3", "--size", "96", "128", "--workers", "1"]


def test_the_tool_writes_the_same_and_reuses_it(tool, folder, tmp_path, capsys):
    root = tmp_path / "data"
    for _ in range(2):
        assert tool(root, *ARGUMENTS) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out == f"{root}: 5 training and 3 validation scenes\n"
    assert digests(root) == digests(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "train=0: expected at least 1"),
        (["--size", "8", "8"], "height=8: expected at least 64"),
        (["--seed", "-1"], "seed=-1: expected at least 0"),
        (["--size", "96"], "expected 2 arguments"),
        (["--train", "many"], "invalid int value"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_the_tool_refuses_in_one_line(tool, tmp_path, capsys, arguments, message):
    code = tool(tmp_path / "data", *arguments)
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert message in said.err and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_tool_refuses_a_taken_folder(tool, folder, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert tool(tmp_path, *ARGUMENTS) == 2
    assert "stays unchanged" in capsys.readouterr().err
    assert tool(folder, *ARGUMENTS, "--seed", "4") == 2
    assert "seed 0, not 4" in capsys.readouterr().err


def test_the_tool_reports_a_folder_that_cannot_be_made(tool, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tool(tmp_path / "file" / "data", *ARGUMENTS) == 2
    said = capsys.readouterr()
    assert str(tmp_path / "file") in said.err and said.err.count("\n") == 1
