"""The clothing photos and the generated shapes as mmseg data sets."""

from pathlib import Path

import numpy as np
import pytest
from helpers.project import PROJECT
from PIL import Image

from fpn_neck.datasets import clothing, shapes

REAL = PROJECT.parent / "shared/clothing"
CONFIGS = PROJECT / "configs"
VAL = [3, 8, 17, 20, 34, 41, 55, 62, 69, 76, 83, 88, 97, 106, 112, 119]  # of 1..120, for ever
NUMBERS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 997]  # gaps, as in the real data
CHOOSING = [8, 17, 20, 41, 69, 76, 83, 106, 119]  # of VAL
SKIRT = 42


def make_pair(root, number, folder="jpeg_images", suffix=".jpeg"):
    """A photo that is black on the labels 3 and white on 42, in vertical stripes and a corner."""
    labels = np.full((165, 110), 3, np.uint8)
    labels[:, 20 + number % 40 :] = SKIRT
    labels[:60, :30] = SKIRT
    photo = np.repeat((labels == SKIRT)[..., None] * np.uint8(255), 3, 2)
    photos, masks = root / folder / "IMAGES", root / "png_masks/MASKS"
    for path in (photos, masks):
        path.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(photos / f"img_{number:04d}{suffix}")
    Image.fromarray(labels).save(masks / f"seg_{number:04d}.png")


@pytest.fixture
def root(tmp_path):
    for number in NUMBERS:
        make_pair(tmp_path, number)
    return tmp_path


def numbers(pairs):
    return [int(photo.stem[-4:]) for photo, _ in pairs]


# ------------------------------------------------------------------------------------ the pairs


def test_the_split_never_changes():
    assert [n for n in range(1, 121) if clothing.split_of(n) == "val"] == VAL
    splits = [clothing.split_of(n) for n in range(1, 1005)]
    assert splits.count("val") == 126 and splits.count("train") == 878


def test_the_halves_of_the_validation_split_never_change():
    assert [n for n in VAL if clothing.half_of(n) == "choosing"] == CHOOSING
    halves = [clothing.half_of(n) for n in range(1, 1005) if clothing.split_of(n) == "val"]
    assert halves.count("choosing") == 62 and halves.count("reporting") == 64
    with pytest.raises(ValueError, match="photo 1 is for training"):
        clothing.half_of(1)


def test_every_label_is_in_one_super_class():
    labels = [label for group in clothing.SUPER_CLASSES.values() for label in group]
    assert sorted(labels) == sorted(clothing.CLASSES)
    kinds = list(clothing.SUPER_CLASSES)
    assert len(kinds) == len(clothing.SUPER_PALETTE) == 9 and kinds[0] == "background"
    for name, kind in {
        "null": "background",
        "skirt": "lower",
        "socks": "shoes",
        "suit": "suit",
    }.items():
        assert kinds[clothing.SUPER_OF[clothing.CLASSES.index(name)]] == kind


def test_59_labels_with_different_colours():
    assert len(clothing.CLASSES) == len(set(clothing.CLASSES)) == len(clothing.PALETTE) == 59
    assert clothing.CLASSES[0] == "null" and clothing.CLASSES[58] == "wedges"
    assert clothing.CLASSES[SKIRT] == "skirt"
    assert len({tuple(c) for c in clothing.PALETTE}) == 59
    assert all(0 <= v <= 255 for colour in clothing.PALETTE for v in colour)


def test_splits_part_the_photos_in_order(root):
    found = {split: numbers(clothing.find_pairs(root, split)) for split in clothing.SPLITS}
    assert found["all"] == NUMBERS
    assert found["val"] == [3, 8, 34, 55]
    assert sorted(found["train"] + found["val"]) == NUMBERS
    assert (found["choosing"], found["reporting"]) == ([8], [3, 34, 55])


def test_a_photo_goes_to_the_same_split_in_every_subset(root):
    whole = numbers(clothing.find_pairs(root, "val"))
    assert whole == [3, 8, 34, 55]
    for number in (1, 2, 8, 13, 55, 997):
        (root / f"jpeg_images/IMAGES/img_{number:04d}.jpeg").unlink()
    assert numbers(clothing.find_pairs(root, "val")) == [3, 34]


def test_masks_belong_to_their_photos(root):
    for photo, mask in clothing.find_pairs(root):
        assert photo.is_file() and mask.is_file()
        assert photo.stem.removeprefix("img_") == mask.stem.removeprefix("seg_")


def test_photos_as_png(tmp_path):
    make_pair(tmp_path, 7, "png_images", ".png")
    ((photo, _),) = clothing.find_pairs(tmp_path)
    assert photo == tmp_path / "png_images/IMAGES/img_0007.png"


def test_jpeg_photos_win_over_their_png_copies(tmp_path):
    make_pair(tmp_path, 7, "png_images", ".png")
    make_pair(tmp_path, 7)
    assert [p.suffix for p, _ in clothing.find_pairs(tmp_path)] == [".jpeg"]


def test_a_photo_without_its_mask_is_named(root):
    (root / "png_masks/MASKS/seg_0013.png").unlink()
    with pytest.raises(ValueError, match=r"1 photos have no mask .*seg_0013\.png"):
        clothing.find_pairs(root)
    with pytest.raises(ValueError, match="seg_0013"):
        clothing.find_pairs(root, clothing.split_of(13))
    other = {"train": "val", "val": "train"}[clothing.split_of(13)]
    assert clothing.find_pairs(root, other)  # the other split is whole


@pytest.mark.parametrize("split", ["test", "", None])
def test_an_unknown_split_is_refused(root, split):
    with pytest.raises(ValueError, match="split="):
        clothing.find_pairs(root, split)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_photos_is_refused(tmp_path, exists):
    root = tmp_path if exists else tmp_path / "missing"
    with pytest.raises(ValueError, match=r"no photos .*data_root"):
        clothing.find_pairs(root)


# ------------------------------------------------------------------------------ as mmseg data sets


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("mmseg")
    from mmengine.registry import DATASETS, DefaultScope

    import fpn_neck  # noqa: F401 (mmseg's models need its operators)

    def build(**cfg):
        with DefaultScope.overwrite_default_scope("mmseg"):
            return DATASETS.build(cfg)

    return build


@pytest.fixture(scope="module")
def pipelines():
    pytest.importorskip("mmengine")
    from mmengine.config import Config

    cfg = Config.fromfile(CONFIGS / "_base_/clothing.py")
    return cfg.train_pipeline, cfg.test_pipeline


def test_clothing_dataset(build, root):
    sizes = {}
    for split in clothing.SPLITS:
        data = build(type="fpn_neck.ClothingDataset", data_root=str(root), split=split)
        sizes[split] = len(data)
        pairs = clothing.find_pairs(root, split)
        found = [data.get_data_info(i) for i in range(len(data))]
        assert [(d["img_path"], d["seg_map_path"]) for d in found] == [
            (str(p), str(m)) for p, m in pairs
        ]
        assert data.metainfo["classes"] == clothing.CLASSES
        assert [list(c) for c in data.metainfo["palette"]] == clothing.PALETTE
    assert sizes["all"] == len(NUMBERS) == sizes["train"] + sizes["val"]


def test_nine_classes_read_the_same_masks(build, root, pipelines):
    data = build(
        type="fpn_neck.NineClothingDataset",
        data_root=str(root),
        split="all",
        pipeline=pipelines[1],
        test_mode=True,
    )
    assert data.metainfo["classes"] == tuple(clothing.SUPER_CLASSES)
    for i, (_, mask) in enumerate(clothing.find_pairs(root)):
        truth = data[i]["data_samples"].gt_sem_seg.data[0].numpy()
        assert (truth == np.asarray(clothing.SUPER_OF)[np.asarray(Image.open(mask))]).all()
    with pytest.raises(ValueError, match="super-classes are fixed"):
        build(
            type="fpn_neck.NineClothingDataset",
            data_root=str(root),
            split="all",
            metainfo={"classes": ("hair", "skin")},
        )


def test_clothing_dataset_passes_the_errors_on(build, root):
    with pytest.raises(ValueError, match="split="):
        build(type="fpn_neck.ClothingDataset", data_root=str(root), split="test")
    (root / "png_masks/MASKS/seg_0013.png").unlink()
    with pytest.raises(ValueError, match="seg_0013"):
        build(type="fpn_neck.ClothingDataset", data_root=str(root), split="all")


def test_the_test_pipeline_keeps_the_mask_as_the_file_has_it(build, root, pipelines):
    data = build(
        type="fpn_neck.ClothingDataset",
        data_root=str(root),
        split="all",
        pipeline=pipelines[1],
        test_mode=True,
    )
    for i, (_, mask) in enumerate(clothing.find_pairs(root)):
        item = data[i]
        truth = item["data_samples"].gt_sem_seg.data.numpy()
        assert truth.shape == (1, 165, 110)
        assert (truth[0] == np.asarray(Image.open(mask))).all()
        assert item["inputs"].shape == (3, 480, 320)  # the photo is resized, the truth is not


@pytest.mark.parametrize("serialize", [True, False])
def test_the_train_pipeline_invents_no_label_and_moves_photo_and_mask_together(
    build, root, pipelines, serialize
):
    # Without PhotoMetricDistortion black stays black, so the photo tells its labels.
    steady = [t for t in pipelines[0] if t["type"] != "PhotoMetricDistortion"]
    assert len(steady) == len(pipelines[0]) - 1
    data = build(
        type="fpn_neck.ClothingDataset",
        data_root=str(root),
        split="all",
        pipeline=steady,
        serialize_data=serialize,
    )
    np.random.seed(0)
    flips = set()
    for _ in range(2):  # twice: the second pass must not see what the first one changed
        for i in range(len(data)):
            item = data[i]
            sample, photo = item["data_samples"], item["inputs"].numpy()
            labels = sample.gt_sem_seg.data.numpy()[0]
            assert set(np.unique(labels)) <= {3, SKIRT}
            assert labels.shape == photo.shape[1:]
            assert labels.shape[0] <= 320 and labels.shape[1] <= 224
            agree = (photo.mean(0) > 127) == (labels == SKIRT)
            assert agree.mean() > 0.97  # all but a pixel or two along the borders
            flips.add(sample.flip)
    assert flips == {True, False}


def test_the_whole_train_pipeline_runs(build, root, pipelines):
    data = build(
        type="fpn_neck.ClothingDataset", data_root=str(root), split="all", pipeline=pipelines[0]
    )
    item = data[0]
    assert set(np.unique(item["data_samples"].gt_sem_seg.data)) <= {3, SKIRT}


def test_shapes_dataset(build, tmp_path):
    root = shapes.write_shapes(tmp_path / "shapes", train=3, val=2, size=(64, 80), workers=1)
    pytest.importorskip("mmengine")
    from mmengine.config import Config

    cfg = Config.fromfile(CONFIGS / "_base_/shapes.py")
    for split, count in {"train": 3, "val": 2}.items():
        data = build(
            type="fpn_neck.ShapesDataset",
            data_root=str(root),
            split=split,
            pipeline=cfg.test_pipeline,
        )
        assert len(data) == count
        assert data.metainfo["classes"] == shapes.CLASSES
        for i in range(count):
            item, name = data[i], f"{i + 1:06d}"
            assert Path(item["data_samples"].img_path).name == f"{name}.jpg"
            png = np.asarray(Image.open(root / split / "labels" / f"{name}.png"))
            assert (item["data_samples"].gt_sem_seg.data.numpy()[0] == png).all()
            assert png.max() < len(shapes.CLASSES)


# --------------------------------------------------------------------------------- the real data


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/clothing is absent")
def test_real_data():
    pairs = {split: clothing.find_pairs(REAL, split) for split in clothing.SPLITS}
    counts = {split: len(p) for split, p in pairs.items()}
    whole = {"train": 783, "val": 117, "all": 900}
    assert counts == whole | {"choosing": 58, "reporting": 59}
    assert sorted(pairs["train"] + pairs["val"]) == pairs["all"]
    for photo, mask in pairs["all"][::100]:
        labels = np.asarray(Image.open(mask))
        assert labels.dtype == np.uint8 and labels.max() < len(clothing.CLASSES)
        assert Image.open(photo).size == labels.shape[::-1]


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/clothing is absent")
def test_real_data_has_the_labels_in_our_order():
    lines = (REAL / "labels.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1].strip() for line in lines] == list(clothing.CLASSES)
