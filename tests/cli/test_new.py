"""fpn-neck new: from folders and COCO files to a config that trains, with the right labels."""

import json
import shlex
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for _package in ("mmseg", "mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)
pytest.importorskip("mmdet.models")

from mmengine.registry import DATASETS, DefaultScope  # noqa: E402

from fpn_neck.cli import new  # noqa: E402
from fpn_neck.datasets.own.pairs import of_split, pair_by_name  # noqa: E402
from fpn_neck.datasets.own.recipe import MODELS  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402

COLOURS = np.array([(0, 0, 0), (0, 0, 9), (0, 9, 0), (9, 0, 0), (9, 9, 9), (70, 9, 9), (80, 0, 0)])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the verb; the config."""

    def call(*arguments):
        out = tmp_path / "mine.py"
        monkeypatch.setattr(sys, "argv", ["new", *map(str, arguments), "--out", str(out)])
        new.main()
        assert len(out.read_text().splitlines()) <= 15
        return load_config(str(out))

    return call


@pytest.fixture
def photos(shapes_root, tmp_path):
    return shutil.copytree(shapes_root / "train/images", tmp_path / "photos")


@pytest.fixture
def make_masks(shapes_root, tmp_path):
    """A folder of masks, each from labels 0..6."""

    def make(change, ending=""):
        folder = tmp_path / "masks"
        folder.mkdir()
        for path in (shapes_root / "train/labels").iterdir():
            mask = change(np.array(Image.open(path)))
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"{path.stem}{ending}.png")
        return folder

    return make


def samples(cfg, split):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return DATASETS.build(cfg[f"{split}_dataloader"].dataset)


def expected_labels(shapes_root, path):
    return np.array(Image.open(shapes_root / f"train/labels/{Path(path).stem}.png"))


def assert_labels(cfg, shapes_root, change):
    """Training and validation have all photos, each once, with these labels."""
    found = [samples(cfg, split) for split in ("train", "val")]
    paths = [dataset.get_data_info(i)["img_path"] for dataset in found for i in range(len(dataset))]
    assert len(paths) == len(set(paths)) == 10 and len(found[1]) >= 1
    for dataset in found:
        assert dataset.metainfo["classes"] == cfg.classes
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            mask = np.array(Image.open(info["seg_map_path"]))
            np.testing.assert_array_equal(
                mask, change(expected_labels(shapes_root, info["img_path"]))
            )


def test_masks_of_labels_are_taken_as_they_are(
    run, photos, make_masks, shapes_root, call_tool, tmp_path
):
    masks = make_masks(lambda labels: labels)
    cfg = run("segmentation", "--images", photos, "--masks", masks)
    assert cfg.model.decode_head.num_classes == 7 and not (tmp_path / "mine_masks").exists()
    assert_labels(cfg, shapes_root, lambda labels: labels)
    short = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "model.backbone.checkpoint=None"]
    work = ["--work-dir", tmp_path / "work", "--cfg-options", *short]
    done = call_tool("train", tmp_path / "mine.py", *work)
    assert done.returncode == 0, done.stderr
    done = call_tool(
        "predict",
        tmp_path / "mine.py",
        tmp_path / "work/iter_1.pth",
        photos,
        "--tta",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out/labels").iterdir())) == 10


def test_0_and_255_become_two_classes(run, photos, make_masks, shapes_root):
    masks = make_masks(lambda labels: (labels > 0) * 255, "_mask")
    arguments = ["--images", photos, "--masks", masks, "--classes", "background,object"]
    cfg = run("segmentation", *arguments)
    assert cfg.classes == ("background", "object")
    assert_labels(cfg, shapes_root, lambda labels: labels > 0)


def test_converted_masks_replace_those_of_an_earlier_call(
    run, photos, make_masks, shapes_root, tmp_path
):
    arguments = ["--images", photos, "--classes", "background,object", "--masks"]
    masks = make_masks(lambda labels: (labels == 0) * 255)
    run("segmentation", *arguments, masks)
    shutil.rmtree(masks)
    masks = make_masks(lambda labels: (labels > 0) * 255, "_mask")
    cfg = run("segmentation", *arguments, masks, "--force")
    assert_labels(cfg, shapes_root, lambda labels: labels > 0)


def test_converted_masks_do_not_go_where_the_masks_are(photos, make_masks, monkeypatch):
    masks = make_masks(lambda labels: (labels > 0) * 255)
    masks = masks.rename(masks.with_name("own_masks"))
    before = {file.name: file.read_bytes() for file in masks.iterdir()}
    for out in (masks.with_name("own.py"), masks / "other.py"):
        words = ["new", "segmentation", "--images", photos, "--masks", masks, "--out", out]
        monkeypatch.setattr(sys, "argv", [*map(str, words), "--classes", "a,b"])
        with pytest.raises(ValueError, match="in the folder of --masks"):
            new.main()
        assert before == {file.name: file.read_bytes() for file in masks.iterdir()}


@pytest.mark.parametrize(
    ("photos", "masks", "expected"),
    [
        (["1", "10"], ["1_mask", "10_mask", "100_mask"], ["1_mask", "10_mask"]),
        ([*"123"], ["1_mask", "10_mask", "2_mask", "3_mask"], ["1_mask", "2_mask", "3_mask"]),
        (["a", "b"], ["a", "a_mask", "b", "b_mask"], ["a", "b"]),
        (["x/a", "y/a"], ["x/a-seg", "y/a-seg"], ["x/a-seg", "y/a-seg"]),
    ],
    ids=str,
)
def test_masks_are_paired_by_the_ending_that_most_of_them_have(tmp_path, photos, masks, expected):
    for folder, names, suffix in (("photos", photos, ".jpg"), ("masks", masks, ".png")):
        for name in names:
            path = tmp_path / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(path)
    pairs = pair_by_name(tmp_path / "photos", tmp_path / "masks")
    assert [
        mask.relative_to(tmp_path / "masks").with_suffix("").as_posix() for _, mask in pairs
    ] == expected


def test_colours_become_labels_black_first(run, photos, make_masks, shapes_root):
    masks = make_masks(lambda labels: COLOURS[labels])
    cfg = run("segmentation", "--images", photos, "--masks", masks)
    occurring = sorted(
        {
            tuple(COLOURS[v])
            for p in (shapes_root / "train/labels").iterdir()
            for v in np.unique(Image.open(p))
        }
    )
    order = np.array([occurring.index(tuple(c)) if tuple(c) in occurring else 0 for c in COLOURS])
    assert_labels(cfg, shapes_root, lambda labels: order[labels])


def test_a_table_names_and_joins_colours(run, photos, make_masks, shapes_root, tmp_path):
    masks = make_masks(lambda labels: COLOURS[labels])
    names = ["ground", "round", "edged", "edged", "ignore", "round", "edged"]
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(names, COLOURS, strict=True)]
    (tmp_path / "table.csv").write_text("name,r,g,b\n" + "\n".join(lines))
    arguments = ["--images", photos, "--masks", masks, "--table", tmp_path / "table.csv"]
    cfg = run("segmentation", *arguments)
    assert cfg.classes == ("ground", "round", "edged")
    numbers = np.array([0, 1, 2, 2, 255, 1, 2])
    assert_labels(cfg, shapes_root, lambda labels: numbers[labels])


def as_palette(folder):
    """Give the masks a palette."""
    for path in folder.iterdir():
        mask = Image.open(path)
        mask.putpalette(COLOURS.astype(np.uint8).tobytes())
        mask.save(path)


def test_a_table_of_colours_reads_palettes(run, photos, make_masks, shapes_root, tmp_path):
    masks = make_masks(lambda labels: labels)
    as_palette(masks)
    names = ["edged", "round", "edged", "edged", "ignore", "round", "edged"]
    lines = [f"{name},{r},{g},{b}\n" for name, (r, g, b) in zip(names, COLOURS, strict=True)]
    (tmp_path / "table.csv").write_text("".join(lines))
    arguments = ["--images", photos, "--masks", masks, "--table", tmp_path / "table.csv"]
    cfg = run("segmentation", *arguments)
    assert cfg.classes == ("edged", "round")
    assert_labels(cfg, shapes_root, lambda labels: np.array([0, 1, 0, 0, 255, 1, 0])[labels])


def as_rgb(labels):
    return labels[..., None].repeat(3, -1)


def test_grey_values_in_three_channels_are_labels(run, photos, make_masks, shapes_root):
    """Label 3 is in no mask, and 4 stays 4."""
    to = np.array([0, 1, 2, 2, 4, 5, 6])
    cfg = run("segmentation", "--images", photos, "--masks", make_masks(lambda x: as_rgb(to[x])))
    assert cfg.model.decode_head.num_classes == 7
    assert_labels(cfg, shapes_root, lambda labels: to[labels])


def test_a_table_of_grey_colours_or_values_reads_both_kinds_of_files(
    run, photos, make_masks, shapes_root, tmp_path
):
    masks = make_masks(lambda labels: as_rgb(labels * 10))
    one = sorted(masks.iterdir())[0]
    Image.open(one).convert("L").save(one)
    names = ["ground", "round", "edged", "edged", "ignore", "round", "edged"]
    for line in ("{n},{v},{v},{v}\n", "{n},{v}\n"):
        lines = (line.format(n=n, v=10 * i) for i, n in enumerate(names))
        (tmp_path / "table.csv").write_text("".join(lines))
        table = ["--table", tmp_path / "table.csv", "--force"]
        cfg = run("segmentation", "--images", photos, "--masks", masks, *table)
        assert cfg.classes == ("ground", "round", "edged")
        assert_labels(cfg, shapes_root, lambda labels: np.array([0, 1, 2, 2, 255, 1, 2])[labels])


def test_colours_and_indices_are_not_mixed(run, photos, make_masks):
    masks = make_masks(lambda labels: COLOURS[labels])
    one = sorted(masks.iterdir())[0]
    Image.fromarray(np.full((64, 96), 3, np.uint8)).save(one)
    with pytest.raises(ValueError, match=f"holds colours and .*{one.name} one number"):
        run("segmentation", "--images", photos, "--masks", masks)


def test_more_than_255_classes_are_refused(run, photos, make_masks, tmp_path):
    """Label 255 is ignored in training."""
    masks = make_masks(lambda labels: as_rgb(labels))
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[..., 0], colours[..., 1] = 10, np.arange(256).reshape(16, 16)
    for path in masks.iterdir():
        Image.fromarray(colours).save(path)
    arguments = ["segmentation", "--images", photos, "--masks", masks]
    with pytest.raises(ValueError, match="hold 256 values, and labels are 0 to 254"):
        run(*arguments)
    lines = (f"c{i},10,{i},0\n" for i in range(256))
    (tmp_path / "table.csv").write_text("".join(lines))
    with pytest.raises(ValueError, match="names 256 classes, and labels are 0 to 254"):
        run(*arguments, "--table", tmp_path / "table.csv")


def test_numbers_that_are_not_whole_and_16_bit_colours_are_refused(run, photos, make_masks):
    import cv2

    masks = make_masks(lambda labels: labels)
    one = sorted(masks.iterdir())[0]
    arguments = ["segmentation", "--images", photos, "--masks", masks]
    cv2.imwrite(str(one), np.full((64, 96, 3), 3, np.uint16))
    with pytest.raises(ValueError, match=f"{one.name}: .*16 bits for each channel"):
        run(*arguments)
    one.unlink()
    Image.fromarray(np.full((64, 96), 0.5, np.float32)).save(one.with_suffix(".tif"))
    with pytest.raises(ValueError, match=f"{one.stem}.tif: the mask holds numbers that are not"):
        run(*arguments)


def test_a_timm_backbone_brings_its_channels_and_statistics(run, photos, make_masks, capsys):
    masks = make_masks(lambda labels: labels)
    cfg = run("segmentation", "--images", photos, "--masks", masks, "--backbone", "resnet18")
    assert cfg.model.backbone.model_name == "resnet18" and cfg.model.backbone.frozen_levels == 0
    assert cfg.model.neck.in_channels == [64, 128, 256, 512]
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert "resnet18 begins with random weights; --weights FILE" in capsys.readouterr().err


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_coco_file_is_split_and_loads(run, photos, shapes_root, model):
    file = shapes_root / "annotations/instances_train.json"
    cfg = run("detection", "--photos", photos, "--annotations", file, "--model", model)
    content = json.loads(file.read_text())
    assert cfg.classes == tuple(c["name"] for c in content["categories"])
    found = [samples(cfg, split) for split in ("train", "val")]
    paths = [
        info["img_path"]
        for dataset in found
        for info in map(dataset.get_data_info, range(len(dataset)))
    ]
    assert len(set(paths)) == len(paths) == 10
    names = {c["id"]: c["name"] for c in content["categories"]}
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    for dataset in found:
        for info in map(dataset.get_data_info, range(len(dataset))):
            number = ids[Path(info["img_path"]).name]
            expected = [
                names[a["category_id"]] for a in content["annotations"] if a["image_id"] == number
            ]
            assert [cfg.classes[o["bbox_label"]] for o in info["instances"]] == expected


def test_a_panoptic_model_trains_and_predicts(
    run, photos, shapes_root, call_tool, assert_refused, tmp_path
):
    file = shapes_root / "annotations/instances_train.json"
    cfg = run("detection", "--photos", photos, "--annotations", file, "--model", "panoptic-fpn")
    short = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "model.backbone.checkpoint=None"]
    work, out = tmp_path / "work", tmp_path / "out"
    config = tmp_path / "mine.py"
    done = call_tool("train", config, "--work-dir", work, "--cfg-options", *short)
    assert done.returncode == 0 and "coco_panoptic/PQ" in done.stdout, done.stderr
    done = call_tool("predict", config, work / "iter_1.pth", photos, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "results.json").read_text())
    assert found["classes"][: len(cfg.classes)] == list(cfg.classes)
    assert all("segments" in photo for photo in found["photos"])
    assert len(list((out / "panoptic").iterdir())) == 10
    command = ["predict", config, work / "iter_1.pth", photos, "--out", tmp_path / "other"]
    assert_refused(call_tool(*command, "--score-thr", 0.9), "score_thr=0.9", "test_cfg.rcnn")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda photos, masks: next(masks.iterdir()).unlink(), "1 of 10 photos have no mask"),
        (lambda photos, masks: [p.unlink() for p in sorted(photos.iterdir())[1:]], "one photo"),
        (lambda photos, masks: shutil.rmtree(masks), "no such folder"),
        (lambda photos, masks: [p.unlink() for p in masks.iterdir()], "no masks there"),
        (
            lambda photos, masks: [p.rename(p.with_suffix(".jpg")) for p in masks.iterdir()],
            "no masks there .*, but 10 .jpg; save masks as PNG",
        ),
        (lambda photos, masks: sorted(masks.iterdir())[0].write_bytes(b"no"), "can't be read"),
        (
            lambda photos, masks: shutil.copy(
                *[sorted(photos.iterdir())[0], photos / "000000.jpeg"]
            ),
            "one name",
        ),
    ],
    ids=[
        "a lost mask",
        "one photo",
        "no folder",
        "no masks",
        "JPEG",
        "unreadable",
        "two of a name",
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    run, photos, make_masks, tmp_path, change, words
):
    masks = make_masks(lambda labels: labels)
    for path in [*photos.iterdir(), *masks.iterdir()]:
        path.rename(path.with_stem(f"{int(path.stem) % 10:06d}"))
    change(photos, masks)
    with pytest.raises(ValueError, match=words):
        run("segmentation", "--images", photos, "--masks", masks)
    assert not (tmp_path / "mine.py").exists()


def test_too_few_names_and_smooth_masks_are_named(run, photos, make_masks):
    masks = make_masks(lambda labels: COLOURS[labels])
    arguments = ["segmentation", "--images", photos, "--masks", masks]
    with pytest.raises(ValueError, match="--classes names 2 classes, and the masks hold"):
        run(*arguments, "--classes", "a,b")
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(next(masks.iterdir()))
    with pytest.raises(ValueError, match="more than 256 different values"):
        run(*arguments)


def test_another_config_is_kept(run, photos, make_masks, tmp_path):
    (tmp_path / "mine.py").write_text("mine = 1")
    with pytest.raises(ValueError, match="--force"):
        run("segmentation", "--images", photos, "--masks", make_masks(lambda labels: labels))
    assert (tmp_path / "mine.py").read_text() == "mine = 1"


def test_lost_photos_of_a_coco_file_are_named(run, photos, shapes_root):
    sorted(photos.iterdir())[0].unlink()
    file = shapes_root / "annotations/instances_train.json"
    with pytest.raises(ValueError, match="names 1 photos that are not in"):
        run("detection", "--photos", photos, "--annotations", file)


def change_coco(file, tmp_path, change):
    """A changed copy of a COCO file."""
    content = json.loads(file.read_text())
    change(content)
    (tmp_path / "changed.json").write_text(json.dumps(content))
    return tmp_path / "changed.json"


def test_objects_may_be_numbered_from_0(run, photos, shapes_root, tmp_path):
    """As Label Studio does; pycocotools takes 0 for "not matched"."""

    def change(content):
        for number, one in enumerate(content["annotations"]):
            one["id"] = number

    file = change_coco(shapes_root / "annotations/instances_train.json", tmp_path, change)
    run("detection", "--photos", photos, "--annotations", file)
    number = len(json.loads(file.read_text())["annotations"])
    for split in ("train", "val"):
        found = json.loads((tmp_path / f"mine_{split}.json").read_text())["annotations"]
        assert [one["id"] for one in found] == list(range(1, len(found) + 1))
        number -= len(found)
    assert number == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["annotations"].clear(), "holds no objects"),
        (lambda content: content["annotations"][1].update(bbox=[]), "1 annotations have no bbox"),
        (lambda content: content["annotations"][1].update(area="9"), "no number as area"),
        (lambda content: [c.update(name="a") for c in content["categories"]], "have the name 'a'"),
    ],
    ids=["no objects", "no box", "area as text", "one name"],
)
def test_a_coco_file_that_would_stop_the_training_is_refused(
    run, photos, shapes_root, tmp_path, change, words
):
    file = change_coco(shapes_root / "annotations/instances_train.json", tmp_path, change)
    with pytest.raises(ValueError, match=words):
        run("detection", "--photos", photos, "--annotations", file)
    assert not (tmp_path / "mine.py").exists()


def test_missing_annotations_and_photos_are_named(run, photos, shapes_root, tmp_path):
    file = shapes_root / "annotations/instances_train.json"
    with pytest.raises(FileNotFoundError, match="annotations=.*no.json': no such file"):
        run("detection", "--photos", photos, "--annotations", tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match="photos=.*no': no such folder"):
        run("detection", "--photos", tmp_path / "no", "--annotations", file)


def test_one_class_is_named_before_masks_are_written(run, photos, make_masks, tmp_path):
    masks = make_masks(lambda labels: (labels > 0) * 255)
    (tmp_path / "table.csv").write_text("object,255\nignore,0\n")
    arguments = ["--images", photos, "--masks", masks, "--table", tmp_path / "table.csv"]
    with pytest.raises(ValueError, match="one class, 'object'"):
        run("segmentation", *arguments)
    assert not (tmp_path / "mine_masks").exists()


def test_names_alone_do_not_tell_colours_apart(run, photos, make_masks):
    """Which colour is the first class after black?"""
    masks = make_masks(lambda labels: COLOURS[labels % 3])
    arguments = ["segmentation", "--images", photos, "--masks", masks]
    with pytest.raises(ValueError, match="which of 3 colours is 'red'; give a --table"):
        run(*arguments, "--classes", "background,red,blue")


def test_names_alone_do_not_tell_two_colours_apart_without_black(run, photos, make_masks):
    masks = make_masks(lambda labels: COLOURS[1 + labels % 2])
    arguments = ["--images", photos, "--masks", masks, "--classes", "a,b"]
    with pytest.raises(ValueError, match="which of 2 colours is 'b'; give a --table"):
        run("segmentation", *arguments)


def test_ignored_pixels_are_counted(run, photos, make_masks, capsys):
    """Half of the masks may be of 0 and 255, the others of labels."""
    masks = make_masks(lambda labels: labels % 2)
    for path in sorted(masks.iterdir())[::2]:
        Image.fromarray(np.asarray(Image.open(path)) * np.uint8(255)).save(path)
    run("segmentation", "--images", photos, "--masks", masks)
    assert "% of the pixels are 255, which is ignored" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["a,,b", "a,b,a", "", "background, cup,"])
def test_names_that_are_empty_or_the_same_are_refused(run, photos, make_masks, names):
    masks = make_masks(lambda labels: (labels > 0) * 255)
    with pytest.raises(ValueError, match="expected different names"):
        run("segmentation", "--images", photos, "--masks", masks, "--classes", names)


def test_names_may_have_blanks_around_them_and_come_from_one_place(
    run, photos, make_masks, tmp_path
):
    masks = make_masks(lambda labels: (labels > 0) * 255)
    arguments = ["segmentation", "--images", photos, "--masks", masks, "--classes", "none, red cup"]
    assert run(*arguments).classes == ("none", "red cup")
    with pytest.raises(ValueError, match="leave --classes out"):
        run(*arguments, "--force", "--table", tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "--table .*: no such file"),
        ("a,0\nb,1,1,1\n", "lines of both kinds"),
        ("a;0\nb,1\n", "line 1: want name,r,g,b or name,value"),
        ("a,300\nb,1\n", "line 1: want"),
        ("ignore,-1\nb,1\n", "line 1: want"),
        ("a,\nb,1\n", "line 1: want"),
        ("a,0\nb,1\nc,1\n", "line 3: 1 is 'b' above and 'c' here"),
        ("a,0,0,0\nb,0,0,0\n", "line 2: #000000 is 'a' above and 'b' here"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(run, photos, make_masks, tmp_path, table, words):
    if table:
        (tmp_path / "table.csv").write_text(table)
    masks = make_masks(lambda labels: labels)
    arguments = ["--images", photos, "--masks", masks, "--table", tmp_path / "table.csv"]
    with pytest.raises((ValueError, OSError), match=words):
        run("segmentation", *arguments)


def test_the_printed_command_can_be_pasted(photos, make_masks, tmp_path, monkeypatch, capsys):
    masks = make_masks(lambda labels: labels)
    out = tmp_path / "it's 한국.py"
    words = ["new", "segmentation", "--images", photos, "--masks", masks, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    new.main()
    command = capsys.readouterr().out.split("train it by: ")[1]
    assert shlex.split(command) == ["fpn-neck", "train", str(out)]


def test_masks_without_a_photo_are_named(run, photos, make_masks, capsys):
    masks = make_masks(lambda labels: labels)
    shutil.copy(next(masks.iterdir()), masks / "another.png")
    run("segmentation", "--images", photos, "--masks", masks)
    assert "1 masks have no photo and are left out: another.png" in capsys.readouterr().err


def test_names_in_both_unicode_forms_are_one(run, photos, make_masks):
    """macOS writes Hangul and accents in parts."""
    masks = make_masks(lambda labels: labels)
    for form, folder in (("NFD", photos), ("NFC", masks)):
        for path in folder.iterdir():
            path.rename(path.with_stem(unicodedata.normalize(form, f"사진 é {path.stem}")))
    assert len(samples(run("segmentation", "--images", photos, "--masks", masks), "val")) == 1


@pytest.mark.parametrize("pattern", ["{:03}.png", "{:03}.jpg", "IMG_{:04}.JPG", "{}.jpg"])
@pytest.mark.parametrize("number", [2, 3, 10, 40, 1000])
def test_one_photo_in_eight_is_for_validation(pattern, number):
    names = [pattern.format(i) for i in range(number)]
    train, val = of_split(names, "train"), of_split(names, "val")
    assert sorted(train + val) == sorted(names) == sorted(of_split(names, "all"))
    assert len(val) == max(1, round(number / 8))
    assert of_split(reversed(names), "val") == val[::-1]
