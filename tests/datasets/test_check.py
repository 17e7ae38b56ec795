"""The checks of masks, annotation files and model configs, one crafted defect a test."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from fpn_neck.datasets.check import boxes, evaluation, heads, kinds, outlines
from fpn_neck.datasets.check import coco as coco_file
from fpn_neck.datasets.check.findings import Finding, InvalidFile, RefusedData, attempt
from fpn_neck.datasets.check.masks import Pair, Reading, Tally, examine
from fpn_neck.datasets.check.run import Histogram

SIZE = 12, 8  # width, height
K = 3
EVERY_KIND = [value for value in vars(kinds).values() if isinstance(value, kinds.Kind)]


@pytest.fixture
def pair(tmp_path):
    """A photo and its mask of the labels 0, 1, 2 and 255."""
    Image.new("RGB", SIZE, (90, 80, 70)).save(tmp_path / "a.jpg")
    Image.fromarray(labels()).save(tmp_path / "a.png")
    return Pair(tmp_path / "a.jpg", tmp_path / "a.png")


def labels() -> np.ndarray:
    return np.repeat(np.array([[0], [1], [2], [2], [1], [0], [255], [0]], np.uint8), 12, 1)


def one(found, kind, *words):
    """The only finding is of this kind and its value holds the words."""
    (finding,) = found
    assert finding.kind == kind and kind in EVERY_KIND
    for word in words:
        assert word in finding.value, (word, finding.value)
    return finding


# ---------------------------------------------------------------------------------- masks


def test_a_right_pair_passes_and_is_counted(pair):
    found = examine(pair, Reading(K))
    assert found.findings == []
    tally = Tally(Reading(K))
    tally.add(found.mask, pair.mask)
    assert tally.pixels.tolist() == [36, 24, 24] and tally.masks.tolist() == [1, 1, 1]
    assert tally.findings("train") == []


@pytest.mark.parametrize("value", [3, 59, 254])
def test_a_value_that_is_no_label(pair, value):
    mask = labels()
    mask[0, :5] = value
    Image.fromarray(mask).save(pair.mask)
    found = one(examine(pair, Reading(K)).findings, kinds.NO_LABEL, f"hold {value};")
    assert found.file == pair.mask.as_posix()
    assert "5 of 96 pixels" in found.value and "labels are 0..2 and 255" in found.value


def test_the_ignored_label_is_what_the_head_ignores(pair):
    one(examine(pair, Reading(K, ignore_index=254)).findings, kinds.NO_LABEL, "hold 255")
    one(examine(pair, Reading(K, ignore_index=None)).findings, kinds.NO_LABEL, "hold 255")


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("label_map", [None, {0: 1, 1: 255, 2: 0}])
def test_values_become_labels_as_in_mmseg(pair, reduced, label_map):
    """Against mmseg's own LoadAnnotations, for every value."""
    pytest.importorskip("mmseg")
    from mmseg.datasets.transforms import LoadAnnotations

    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32)).save(pair.mask)
    info = {"seg_map_path": str(pair.mask), "seg_fields": [], "label_map": label_map}
    loaded = LoadAnnotations()(info | {"reduce_zero_label": reduced})["gt_seg_map"]
    table = Reading(K, reduce_zero_label=reduced, label_map=label_map).table()
    assert table.tolist() == loaded.ravel().tolist()


def test_values_above_255(pair):
    mask = labels().astype(np.uint16)
    mask[0, 0] = 258  # its low byte would be label 2
    Image.fromarray(mask).save(pair.mask)
    one(examine(pair, Reading(K)).findings, kinds.NO_LABEL, "hold 258")
    Image.fromarray(labels().astype(np.uint16)).save(pair.mask)
    assert examine(pair, Reading(K)).findings == []
    Image.fromarray(labels().astype(">u2")).save(pair.mask, format="TIFF")
    assert examine(pair, Reading(K)).findings == []


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)], ids=str)
def test_masks_of_one_row_or_column(pair, size):
    """mmseg's LoadAnnotations squeezes them."""
    Image.new("RGB", size).save(pair.photo)
    Image.new("L", size).save(pair.mask)
    one(examine(pair, Reading(K)).findings, kinds.THIN, "mask {}x{} pixels".format(*size))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours(pair, mode):
    Image.fromarray(labels()).convert(mode).save(pair.mask)
    one(examine(pair, Reading(K)).findings, kinds.COLOURS, f"PNG, mode {mode}")


def test_floating_point_numbers(pair, tmp_path):
    mask = tmp_path / "a.tif"
    Image.fromarray(labels().astype(np.float32)).save(mask)
    found = examine(pair._replace(mask=mask), Reading(K)).findings
    one(found, kinds.FLOATS, "TIFF, mode F")
    photo = tmp_path / "photo.tif"
    Image.fromarray(labels().astype(np.float32)).save(photo)
    one(examine(pair._replace(photo=photo), Reading(K)).findings, kinds.NO_RANGE, "TIFF, mode F")


@pytest.mark.parametrize("mode", ["1", "P"])
def test_what_opencv_turns_into_colours(pair, mode):
    Image.fromarray(labels() % 2).convert(mode).save(pair.mask)
    reading = Reading(K, palette_colours=True)
    one(examine(pair, reading).findings, kinds.COLOURS, f"mode {mode}")


def test_one_bit_masks_are_labels_for_pillow(pair):
    Image.fromarray(labels() == 1).save(pair.mask)
    found = examine(pair, Reading(K))
    assert found.findings == []
    assert found.mask.pixels[:3].tolist() == [72, 24, 0]


def with_palette(path):
    mask = Image.fromarray(labels())
    mask.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    mask.save(path)


def test_a_palette_among_grey_masks(pair, tmp_path):
    tally = Tally(Reading(K))
    with_palette(tmp_path / "b.png")
    other = pair._replace(mask=tmp_path / "b.png")
    tally.add(examine(other, Reading(K)).mask, other.mask)
    assert tally.findings("train") == []  # pillow reads the indices of all alike
    tally.add(examine(pair, Reading(K)).mask, pair.mask)
    assert one(tally.findings("train"), kinds.MIXED_PALETTE).file.endswith("b.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_whatever_its_name(pair, tmp_path, name):
    mask = tmp_path / "masks" / name
    mask.parent.mkdir()
    Image.fromarray(labels()).save(mask, format="JPEG")
    found = examine(pair._replace(mask=mask), Reading(K)).findings
    assert (
        one(found, kinds.LOSSY, "JPEG, mode L, ", " of 96 pixels are not labels").file
        == mask.as_posix()
    )


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("part", [0, 0.6])
def test_a_cut_file(pair, mask, part):
    path = pair.mask if mask else pair.photo
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    found = one(examine(pair, Reading(K)).findings, kinds.UNREADABLE, "bytes")
    assert found.file == path.as_posix()


def test_a_quick_check_reads_headers_only(pair):
    Image.effect_noise(SIZE, 90).convert("RGB").save(pair.photo, quality=100)
    pair.photo.write_bytes(pair.photo.read_bytes()[:-40])
    assert examine(pair, Reading(K), header_only=True).findings == []
    one(examine(pair, Reading(K)).findings, kinds.UNREADABLE, "truncated")


def test_missing_files(pair):
    photo = examine(pair._replace(photo=pair.photo.with_name("b.jpg")), Reading(K))
    one(photo.findings, kinds.MISSING, "no such file")
    mask = examine(pair._replace(mask=pair.mask.with_name("b.png")), Reading(K))
    assert one(mask.findings, kinds.NO_MASK, "b.png").file == pair.photo.as_posix()


def test_a_mask_of_a_longer_name_is_shown(pair, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("10.png", "1_mask.png"):
        Image.fromarray(labels()).save(masks / name)
    found = examine(pair._replace(mask=masks / "1.png"), Reading(K)).findings
    one(found, kinds.NO_MASK, "masks/1.png; 1_mask.png is there")
    found = examine(pair._replace(mask=masks / "2.png"), Reading(K)).findings
    assert "is there" not in one(found, kinds.NO_MASK).value


def test_sizes_that_differ(pair):
    Image.fromarray(labels()[:7]).save(pair.mask)
    one(examine(pair, Reading(K)).findings, kinds.SIZE, "mask 12x7, photo 12x8")
    pair = Pair(pair.photo, None, (8, 12))
    one(examine(pair, None).findings, kinds.SIZE, "photo 12x8, its annotation 8x12")


def test_a_photo_is_turned_as_mmcv_turns_it(pair):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(pair.photo, exif=exif)
    one(examine(pair, Reading(K)).findings, kinds.SIZE, "mask 12x8, photo 8x12")
    Image.fromarray(labels().T.copy()).save(pair.mask)
    assert examine(pair, Reading(K)).findings == []
    cv2 = pytest.importorskip("cv2")
    assert cv2.imread(str(pair.photo)).shape[:2] == (12, 8)
    assert cv2.imread(str(pair.photo), cv2.IMREAD_UNCHANGED).shape[:2] == (8, 12)
    one(examine(pair, Reading(K), turned=False).findings, kinds.SIZE, "mask 8x12, photo 12x8")


def tally_of(pair, reading, *masks):
    tally = Tally(reading)
    for mask in masks:
        Image.fromarray(np.asarray(mask, np.uint8)).save(pair.mask)
        found = examine(pair._replace(photo=pair.mask), reading)
        assert found.findings == []
        tally.add(found.mask, pair.mask)
    return tally.findings("data")


ZERO_255 = np.where(np.eye(4), 255, 0)


def test_masks_of_0_and_255(pair):
    one(tally_of(pair, Reading(2), ZERO_255), kinds.ZERO_255, "4 of 16 pixels are 255")
    one(tally_of(pair, Reading(K), ZERO_255), kinds.ZERO_255, "4 of 16")


def test_background_and_ignored_pixels_are_no_binary_mask(pair):
    assert tally_of(pair, Reading(K), ZERO_255, labels()) == []
    border = [[0, 1, 255]] * 2
    assert tally_of(pair, Reading(2), border, ZERO_255, border) == []
    assert tally_of(pair, Reading(2), np.eye(4), np.zeros((4, 4))) == []


def test_reduce_zero_label_on_binary_masks(pair):
    found = tally_of(pair, Reading(2, reduce_zero_label=True), np.eye(4))
    one(found, kinds.BINARY_REDUCED, "0 is ignored, 1 becomes 0")
    assert tally_of(pair, Reading(2, reduce_zero_label=True), np.eye(4) + np.eye(4)[::-1] * 2) == []


# -------------------------------------------------------------------------------------- COCO

CLASSES = ("cat", "dog")


def coco(**changes):
    image = {"id": 1, "file_name": "a.jpg", "height": 8, "width": 12}
    box = {"id": 5, "image_id": 1, "category_id": 20, "bbox": [1, 2, 3, 4], "area": 12}
    categories = [{"id": 10, "name": "cat"}, {"id": 20, "name": "dog"}]
    return {
        "images": [image | changes.pop("image", {})],
        "annotations": [box | changes.pop("box", {})],
        "categories": changes.pop("categories", categories),
    }


def test_right_boxes_pass_and_are_counted():
    found = coco_file.check_annotations("f.json", coco(), CLASSES)
    assert found.findings == [] and coco_file.check_categories("f.json", coco(), CLASSES) == []
    assert found.boxes.tolist() == [0, 1] and found.photos.tolist() == [0, 1]
    assert found.left_out == {}


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ({"bbox": [1, 2, 0, 4]}, kinds.EMPTY_BOX),
        ({"bbox": [1, 2, 3, -4]}, kinds.EMPTY_BOX),
        ({"bbox": [1, 2, 0.5, 4]}, kinds.EMPTY_BOX),
        ({"area": 0}, kinds.EMPTY_BOX),
        ({"bbox": [11, 2, 3, 4]}, kinds.OUTSIDE),
        ({"bbox": [1, -3, 3, 4]}, kinds.OUTSIDE),
        ({"bbox": [1, 2, 3, 8]}, kinds.OUTSIDE),
        ({"bbox": [1, 2, 3]}, kinds.NOT_COCO),
        ({"bbox": [1, 2, float("nan"), 4]}, kinds.NOT_COCO),
        ({"area": None}, kinds.NOT_COCO),
        ({"category_id": 3}, kinds.NO_CATEGORY),
        ({"image_id": 3}, kinds.NO_IMAGE),
    ],
)
def test_a_wrong_box(box, kind):
    found = coco_file.check_annotations("f.json", coco(box=box), CLASSES).findings
    finding = one(found, kind, "annotation 5")
    assert finding.file == "f.json"
    changed = next(iter(box.values()))
    if not isinstance(changed, dict):
        assert str(changed) in finding.value


@pytest.mark.parametrize("outline", [{}, {"segmentation": []}, {"segmentation": None}])
def test_a_box_without_an_outline(outline):
    """mmdet reads masks from it, and raises a KeyError if there is none."""

    def found(content, **options):
        return coco_file.check_annotations("f.json", content, CLASSES, **options).findings

    one(found(coco(box=outline), outlines=True), kinds.NO_OUTLINE, "annotation 5 of a.jpg")
    assert found(coco(box=outline)) == []
    assert found(coco(box={"segmentation": [[1, 2, 4, 2, 4, 6]]}), outlines=True) == []
    other = coco(box=outline, categories=[{"id": 20, "name": "bird"}])
    assert found(other, outlines=True) == []  # left out of training


OUTLINES = [
    ([1, 2, 30, 2, 30, 30], "[1, 2, 30, 2, 30, 30]: expected a list of lists"),
    ([[1, 2, 4, 2]], "polygon 0 has 4 coordinates"),
    ([[1, 2, 4, 2, 4, 6], [1, 2, 4, 2, 4, 6, 7]], "polygon 1 has 7 coordinates"),
    ([["1", "2", "4", "2", "4", "6"]], "not finite numbers"),
    ([[1, 2, 4, 2, 4, float("nan")]], "not finite numbers"),
    ("mask.png", "a str"),
    ({"size": [8, 12]}, "not run lengths"),
    ({"size": [8, 12], "counts": "garbage!"}, "not run lengths"),
    ({"size": [8, 12], "counts": "05"}, "counts sum to 5, expected height * width = 96"),
    ({"size": [8, 12], "counts": "0P"}, "not run lengths"),  # ends within a number
    ({"size": [8, 12], "counts": [90, 5]}, "counts sum to 95"),
    ({"size": [8, 12], "counts": [100, -4]}, "not run lengths"),
]


@pytest.mark.parametrize(("outline", "words"), OUTLINES, ids=range(len(OUTLINES)))
def test_spoilt_outlines(outline, words):
    content = coco(box={"segmentation": outline})
    found = coco_file.check_annotations("f.json", content, CLASSES, outlines=True).findings
    one(found, kinds.OUTLINE, "annotation 5 of a.jpg", words)
    assert coco_file.check_annotations("f.json", content, CLASSES).findings == []


def test_run_lengths_are_decoded_as_pycocotools_encodes_them():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (8, 12), (40, 70), (300, 200)]:
        for part in (0, 0.01, 0.5, 1):
            truth = np.asfortranarray(rng.random((height, width)) < part, np.uint8)
            outline = mask.encode(truth) | {"size": [height, width]}
            outline["counts"] = outline["counts"].decode()
            assert outlines.wrong_outline(outline, (width, height)) is None
            wrong = outlines.wrong_outline(outline | {"size": [2, 3]}, (3, 2))
            assert wrong[0] == kinds.OUTLINE and f"sum to {height * width}," in wrong[1]


@pytest.mark.parametrize(
    "outline",
    [[[30, 40, 50, 40, 50, 60]], [[5, 5, 5, 5, 5, 5]], [[2, 3, 4, 3, 6, 3]], [[7, 1, 9, 1, 9, 2]]],
    ids=["elsewhere", "a point", "a line", "x and y swapped"],
)
def test_an_outline_outside_of_its_box(outline):
    """Training would take an empty mask for the object."""
    content = coco(box={"segmentation": outline, "bbox": [1, 2, 3, 4]})
    found = coco_file.check_annotations("f.json", content, CLASSES, outlines=True).findings
    one(found, kinds.OUTLINE_ELSEWHERE, "bbox [1, 2, 3, 4]")
    content = coco(box={"segmentation": [*outline, [1, 2, 4, 2, 4, 6]], "bbox": [1, 2, 3, 4]})
    assert coco_file.check_annotations("f.json", content, CLASSES, outlines=True).findings == []


def test_an_outline_of_another_size():
    outline = {"size": [12, 8], "counts": [96]}
    assert outlines.wrong_outline(outline, (12, 8))[0] == kinds.MASK_SIZE


def test_ids_of_another_type():
    found = coco_file.check_annotations("f.json", coco(box={"image_id": "1"}), CLASSES).findings
    one(found, kinds.NO_IMAGE, "image_id '1', its file lists 1: types differ")
    found = coco_file.check_annotations("f.json", coco(box={"category_id": "20"}), CLASSES)
    one(found.findings, kinds.NO_CATEGORY, "category_id '20', its file lists 20: types")


@pytest.mark.parametrize("width", [-12, 0, float("nan")])
def test_a_photo_of_no_size_is_not_found_at_every_box(pair, width):
    content = coco(image={"width": width})
    assert coco_file.check_annotations("f.json", content, CLASSES, outlines=False).findings == []
    pair = Pair(pair.photo, None, (width, 8))
    one(examine(pair, None).findings, kinds.SIZE, f"its annotation {width}x8")


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps(coco()), encoding="utf-8-sig")
    findings = []
    assert attempt(coco_file.read_coco, path, findings) is None
    assert one(findings, kinds.BOM, "U+FEFF").file == path.as_posix()


def trained(content, classes=CLASSES):
    return list(boxes.trained_boxes(content, classes, content["images"]))


def test_boxes_to_train_on():
    assert trained(coco()) == coco()["annotations"]
    assert not trained(coco(), ("cat",))
    assert not trained(coco() | {"annotations": []})


def test_boxes_are_left_out_by_mmdets_own_rules():
    """Each of a thousand random boxes is trained on if mmdet's data set says so."""
    pytest.importorskip("mmdet")
    from mmdet.datasets import CocoDataset

    draw = np.random.default_rng(0)
    dataset = CocoDataset(metainfo=dict(classes=CLASSES), data_prefix=dict(img=""), lazy_init=True)
    dataset.cat_ids, dataset.cat2label = [10, 20], {10: 0, 20: 1}
    taken = 0
    for _ in range(1000):
        flags = {n: v for n in ("iscrowd", "ignore") if (v := draw.choice([None, 0, 0, 0, 1]))}
        box = (draw.integers(-8, 32, 4) / 2).tolist()
        changes = {"bbox": box, "area": int(draw.integers(0, 9)), "category_id": 10, **flags}
        content = coco(box=changes)
        photo = content["images"][0] | {"img_id": 1}
        raw = {"raw_img_info": photo, "raw_ann_info": content["annotations"]}
        instances = dataset.parse_data_info(raw)["instances"]
        expected = any(not instance["ignore_flag"] for instance in instances)
        assert bool(trained(content)) == expected, content
        assert (coco_file.check_annotations("f", content, CLASSES).boxes.sum() == 1) == expected
        taken += expected
    assert 100 < taken < 900


@pytest.mark.parametrize(
    ("filters", "test_mode", "indices"),
    [
        (None, False, None),
        ({"filter_empty_gt": True}, False, None),
        ({"filter_empty_gt": True, "min_size": 32}, False, None),
        ({"min_size": 32}, True, None),
        ({"min_size": 99}, False, None),
        ({"min_size": 32}, False, 2),
        (None, True, -3),
        (None, True, [4, 0]),
        (None, True, 0),
    ],
)
def test_photos_are_left_out_by_mmdets_own_rules(tmp_path, filters, test_mode, indices):
    pytest.importorskip("mmdet")
    from mmdet.datasets import CocoDataset

    content = coco()
    photo, box = content["images"][0], content["annotations"][0]
    content["images"] = [photo | {"id": i, "width": 8 * i, "height": 60} for i in range(1, 9)]
    content["annotations"] = [
        box | {"id": i, "image_id": i, "iscrowd": i % 2, "category_id": 10 * (1 + i % 3)}
        for i in range(1, 8)
    ]
    (tmp_path / "f.json").write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / "f.json"),
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(img=""),
        filter_cfg=filters,
        test_mode=test_mode,
        indices=indices,
        serialize_data=False,
    )
    left = boxes.photos_left(dataset, content, indices)
    assert [p["id"] for p in left] == [dataset[i]["img_id"] for i in range(len(dataset))]


# ------------------------------------------------------------------------------ evaluated files


def truth(**changes):
    """A file that can be evaluated."""
    return coco(box={"iscrowd": 0, **changes.pop("box", {})}, **changes) | {"info": {}}


def of_truth(content, **options):
    return evaluation.check_truth("f.json", content, CLASSES, **options)


def test_a_right_file_to_evaluate():
    assert of_truth(truth()) == of_truth(truth(box={"segmentation": [[1]]}), outlines=True) == []


@pytest.mark.parametrize(
    ("box", "kind", "word"),
    [
        ({"iscrowd": None}, kinds.NO_CROWD, "iscrowd None"),
        ({"iscrowd": ""}, kinds.NO_CROWD, "iscrowd ''"),
        ({"id": 0}, kinds.ID_ZERO, "annotation 0 of a.jpg: id 0"),
        ({"id": "0"}, kinds.ID_ZERO, "id '0'"),
        ({"id": "first"}, kinds.ID_ZERO, "id 'first'"),
        ({"iscrowd": 1}, kinds.NO_SCORE, "1 annotations, 1 of the classes"),
        ({"category_id": 30}, kinds.NO_SCORE, "1 annotations, 0 of the classes"),
    ],
)
def test_what_an_evaluator_needs(box, kind, word):
    one(of_truth(truth(box=box)), kind, word)


def test_annotations_without_iscrowd_and_outline():
    one(of_truth(coco() | {"info": {}}), kinds.NO_CROWD, "1 of 1 annotations", "iscrowd None")
    one(of_truth(truth(), outlines=True), kinds.NO_OUTLINE, "segmentation None")


def test_an_info_is_wanted_by_some_versions_of_pycocotools(monkeypatch):
    coco_api = pytest.importorskip("pycocotools.coco").COCO
    content = truth()
    del content["info"]
    for wants in (False, True):

        def load(self, found, wants=wants):
            return self.dataset["info"] if wants else self

        monkeypatch.setattr(coco_api, "loadRes", load)
        evaluation.needs_info.cache_clear()
        rules = [finding.kind for finding in of_truth(content)]
        assert rules == [kinds.NO_INFO] * wants
    evaluation.needs_info.cache_clear()


def judged(tmp_path, other, **settings):
    """The findings of an evaluator by the file ``other`` on a data set of three photos."""
    ours = photos_of(1, 2, 3)
    for name, content in (("ours", ours), ("other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = evaluation.Evaluated(tmp_path / "ours.json", ours, ours["images"], CLASSES)
    evaluator = evaluation.Evaluation("val_evaluator", str(tmp_path / "other.json"), **settings)
    return evaluation.check_evaluation("c.py", evaluator, data)


def photos_of(*ids):
    content = truth()
    photo, box = content["images"][0], content["annotations"][0]
    content["images"] = [photo | {"id": i, "file_name": f"val/{i}.jpg"} for i in ids]
    content["annotations"] = [box | {"id": i, "image_id": i, "bbox": [1, 2, 3, 4]} for i in ids]
    return content


def test_an_evaluator_by_a_copy_of_the_file(tmp_path):
    assert judged(tmp_path, photos_of(1, 2, 3)) == judged(tmp_path, photos_of(3, 2, 1)) == []


def test_an_evaluator_by_another_file(tmp_path):
    found = judged(tmp_path, photos_of(1, 2))
    assert one(found, kinds.OTHER_TRUTH, "1 of the data set's 3", "ids 3").file.startswith("c.py")
    one(judged(tmp_path, photos_of(1, 2, 3, 4)), kinds.OTHER_TRUTH, "1 of its 4", "ids 4")
    assert judged(tmp_path, photos_of(1, 2, 3, 4), whole=False) == []
    assert judged(tmp_path, photos_of(1, 2), scores=False) == []
    renamed = json.loads(json.dumps(photos_of(1, 2, 3)).replace("2.jpg", "5.jpg"))
    one(judged(tmp_path, renamed), kinds.OTHER_TRUTH, "1 of the data set's 3", "other ones")
    moved = json.loads(json.dumps(photos_of(1, 2, 3)).replace("[1, 2, 3, 4]", "[2, 2, 3, 4]"))
    one(judged(tmp_path, moved), kinds.OTHER_TRUTH, "none of its 3 boxes is in", "ours.json")


def test_an_evaluator_by_a_file_that_lacks_something(tmp_path):
    without_outlines = judged(tmp_path, photos_of(1, 2, 3), metrics=("segm",))
    assert {finding.kind for finding in without_outlines} == {kinds.NO_OUTLINE}
    swapped = photos_of(1, 2, 3) | {"categories": truth()["categories"][::-1]}
    one(judged(tmp_path, swapped), kinds.CATEGORIES, "label 0 becomes 'dog'")
    (tmp_path / "ours.json").write_text(json.dumps(photos_of(1)))
    data = evaluation.Evaluated(tmp_path / "ours.json", photos_of(1), [], CLASSES)
    gone = evaluation.Evaluation("val_evaluator", str(tmp_path / "gone.json"))
    one(evaluation.check_evaluation("c.py", gone, data), kinds.ABSENT, "no such file")


@pytest.mark.parametrize("number", [0, 1, "7"])
def test_ids_score_as_pycocotools_matches_them(number):
    """The truth as prediction has an AP of 1, unless the id is found wrong."""
    from contextlib import redirect_stdout
    from io import StringIO

    coco_api = pytest.importorskip("pycocotools.coco").COCO
    from pycocotools.cocoeval import COCOeval

    content = truth(box={"id": number})
    with redirect_stdout(StringIO()):
        api = coco_api()
        api.dataset = content
        api.createIndex()
        same = {k: content["annotations"][0][k] for k in ("image_id", "category_id", "bbox")}
        scores = COCOeval(api, api.loadRes([same | {"score": 1.0}]), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    assert (scores.stats[0] == pytest.approx(1)) == (of_truth(content) == [])


def test_a_box_may_end_a_pixel_outside():
    content = coco(box={"bbox": [-1, 0, 14, 9]})
    assert coco_file.check_annotations("f.json", content, CLASSES).findings == []


def test_ids_that_stand_twice():
    content = coco()
    content["annotations"] *= 2
    found = coco_file.check_annotations("f.json", content, CLASSES).findings
    one(found, kinds.TWICE, "annotations: id 5")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("cat", "dgo"), ["'dgo'", "'dog' is"]),
        (("person",), ["'person'", "2 categories"]),
        (("dog", "cat"), ["label 0 becomes 'cat'", "classes[0] is 'dog'"]),
    ],
)
def test_categories_that_do_not_match(classes, words):
    one(coco_file.check_categories("f.json", coco(), classes), kinds.CATEGORIES, *words)


def test_a_name_that_two_categories_have():
    twins = [{"id": 10, "name": "cat"}, {"id": 20, "name": "cat"}]
    found = coco_file.check_categories("f.json", coco(categories=twins), ("cat",))
    one(found, kinds.CATEGORIES, "label 1 becomes 'cat'", "'nothing'")


def test_a_class_that_stands_twice():
    found = coco_file.check_categories("f.json", coco(), ("cat", "dog", "cat"))
    one(found, kinds.CATEGORIES, "'cat' twice")


def test_segments_of_a_panoptic_file(tmp_path):
    """Ids of segments are colours, and unique within a photo only."""
    segment = {"id": 5, "category_id": 20, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    content = coco()
    content["images"].append(content["images"][0] | {"id": 2})
    content["annotations"] = [
        {"image_id": i, "file_name": f"{i}.png", "segments_info": [segment]} for i in (1, 2)
    ]
    content["annotations"][1]["segments_info"] = [segment | {"bbox": [1, 2, 0, 4]}]
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content))
    read = coco_file.read_coco(path, panoptic=True)
    found = coco_file.check_annotations("f.json", read, CLASSES, unique=False)
    one(found.findings, kinds.EMPTY_BOX, "annotation 5 of a.jpg")
    assert found.boxes.tolist() == [0, 1] and found.photos.tolist() == [0, 1]
    with pytest.raises(InvalidFile, match="segments_info"):
        path.write_text(json.dumps(coco()))
        coco_file.read_coco(path, panoptic=True)


def test_a_panoptic_file_of_more_categories_than_classes():
    content = coco(categories=[{"id": 20, "name": "dog", "isthing": 1}])
    assert coco_file.check_panoptic("f.json", content, CLASSES) == []
    found = coco_file.check_panoptic("f.json", content, ("cat",))
    one(found, kinds.CATEGORIES, "segments of 'dog'")
    found = coco_file.check_panoptic("f.json", coco(), CLASSES)
    one(found, kinds.NOT_COCO, "'cat', 'dog': no isthing")


def test_a_subset_of_the_categories_passes():
    assert coco_file.check_categories("f.json", coco(), ("dog",)) == []
    found = coco_file.check_annotations("f.json", coco(box={"category_id": 10}), ("dog",))
    assert found.findings == [] and found.left_out == {"cat": 1}


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("", kinds.UNREADABLE, "0 bytes"),
        ('{"images": [', kinds.UNREADABLE, "bytes"),
        ("[]", kinds.NOT_COCO, "a list"),
        ('{"images": []}', kinds.NOT_COCO, "categories"),
        (json.dumps(coco(box={})).replace('"area"', '"size"'), kinds.NOT_COCO, "area"),
        (json.dumps(coco()).replace('"height"', '"h"'), kinds.NOT_COCO, "images[0]"),
        (json.dumps(coco(image={"height": "8"})), kinds.NOT_COCO, "valid height"),
        (json.dumps(coco(image={"height": False})), kinds.NOT_COCO, "valid height"),
        (json.dumps(coco(image={"id": [1]})), kinds.NOT_COCO, "valid id"),
        (json.dumps(coco(box={"category_id": {}})), kinds.NOT_COCO, "valid category_id"),
        (json.dumps(coco(categories=[{"id": 1, "name": None}])), kinds.NOT_COCO, "valid name"),
        ("[" * 100_000, kinds.UNREADABLE, "RecursionError"),
    ],
)
def test_a_file_that_mmdet_cannot_read(tmp_path, text, kind, word):
    path = tmp_path / "f.json"
    path.write_text(text)
    findings = []
    assert attempt(coco_file.read_coco, path, findings) is None
    assert one(findings, kind, word).file == path.as_posix()


# ------------------------------------------------------------------------------------- config

META = {"classes": ("a", "b", "c")}


def head(**changes):
    return {"type": "Head", "num_classes": 3} | changes


def classes(model):
    return heads.check_heads("c.py", "train", model, META)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"decode_head": head(num_classes=4)}, "model.decode_head.num_classes=4"),
        (
            {"decode_head": head(), "auxiliary_head": [head(), head(num_classes=19)]},
            "model.auxiliary_head[1].num_classes=19",
        ),
        ({"bbox_head": head(num_classes=80)}, "model.bbox_head.num_classes=80"),
        (
            {"roi_head": {"type": "R", "bbox_head": [head(), head(num_classes=80)]}},
            "model.roi_head.bbox_head[1].num_classes=80",
        ),
        (
            {"panoptic_fusion_head": {"type": "H", "num_things_classes": 80}},
            "model.panoptic_fusion_head.num_things_classes=80",
        ),
    ],
)
def test_heads_of_another_number_of_classes(model, path):
    one(classes(model), kinds.HEAD_CLASSES, path, "train has K=3 classes")


@pytest.mark.parametrize(
    "model",
    [
        {"decode_head": head(), "auxiliary_head": [head(), head(type="STDCHead", num_classes=1)]},
        {
            "decode_head": head(),
            "auxiliary_head": head(type=type("STDCHead", (), {}), num_classes=1),
        },
        {"rpn_head": head(num_classes=1), "roi_head": {"type": "R", "bbox_head": head()}},
        {"backbone": {"type": "B", "num_classes": 1000}, "bbox_head": head()},
        {"semantic_head": {"type": "S", "num_things_classes": 3, "num_stuff_classes": 1}},
    ],
)
def test_right_heads_pass(model):
    assert classes(model) == []


def test_classes_that_are_none():
    for meta, kind in [({}, "NO_CLASSES"), ({"classes": "cat"}, "CLASSES_TEXT")]:
        found = heads.check_heads("c.py", "val", {"bbox_head": head()}, meta)
        assert one(found, getattr(kinds, kind), "val").file == "c.py"


@pytest.mark.parametrize(
    ("name", "loss", "others", "right"),
    [
        ("loss_decode", {}, {}, 3),
        ("loss_decode", {}, {"out_channels": 1}, 1),
        ("loss_cls", {"use_sigmoid": False}, {}, 4),
        ("loss_cls", {"use_sigmoid": True}, {}, 3),
    ],
)
def test_class_weights(name, loss, others, right):
    def check(count, as_list=False):
        settings = loss | {"type": "L", "class_weight": [1.0] * count}
        settings = [settings] if as_list else settings
        return heads.check_weights("c.py", {"x_head": head(**{name: settings}, **others)})

    assert check(right) == check(right, as_list=True) == []
    one(check(right + 2), kinds.WEIGHTS, f"model.x_head.{name}.class_weight has {right + 2}")
    one(check(right + 2, as_list=True), kinds.WEIGHTS, f"{name}[0]", f"expected {right}")


# ------------------------------------------------------------------------------------ results


def test_rare_and_absent_classes():
    photos = np.array([300, 3, 4, 0])
    counts = Histogram(("a", "b", "c", "d"), "boxes", photos * 2, photos, total=399)
    assert counts.rare == ["b"] and counts.absent == ["d"]
    assert Histogram(("a", "b"), "boxes", photos[:2], np.array([1, 2]), total=5).rare == ["a"]


def test_every_kind_has_its_remedy():
    assert len(EVERY_KIND) > 20
    assert len({kind.rule for kind in EVERY_KIND}) == len(EVERY_KIND)
    assert all(kind.rule and kind.remedy for kind in EVERY_KIND)


def test_the_brief_report_names_everything_and_ends():
    findings = [Finding(kinds.SIZE, f"{i}.png", "1x1, 2x2") for i in range(7)]
    lines = RefusedData(findings).brief(5)
    assert len(lines) == 6 and lines[-1] == "… and 2 more findings"
    rule, remedy = kinds.SIZE
    assert lines[0] == f"0.png: 1x1, 2x2: {rule}; remedy: {remedy}"


def test_findings_travel_between_processes(pair):
    found = examine(pair._replace(photo=pair.photo.with_name("b.jpg")), Reading(K))
    assert pickle.loads(pickle.dumps(found)) == found
