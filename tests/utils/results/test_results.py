"""A result of arrays: areas, pictures, JSON, COCO's formats, supervision, files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fpn_neck.utils.photos import read_photo
from fpn_neck.utils.results.arrays import Segment
from fpn_neck.utils.results.coco import CocoIds
from fpn_neck.utils.results.folder import ResultsFolder
from fpn_neck.utils.results.pictures import overlay
from fpn_neck.utils.results.predictor import Predictor
from fpn_neck.utils.results.result import Result

CLASSES = ("sky", "car", "dog")
PALETTE = ((0, 0, 255), (255, 0, 0), (0, 200, 0))
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def segmented():
    labels = np.zeros((40, 60), np.uint8)
    labels[10:20, :] = 2
    return Result(PHOTO, CLASSES, PALETTE, photo="in/a.jpg", labels=labels)


@pytest.fixture
def detected():
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 5:15, 10:30] = masks[1, 10:20, 10:30] = masks[2, 30:, 40:] = True
    boxes = np.array([[10, 5, 30, 15], [10, 10, 30, 20], [40, 30, 60, 40]], np.float32)
    scores, ids = np.array([0.9, 0.5, 0.1], np.float32), np.array([1, 1, 2])
    return Result(
        PHOTO, CLASSES, PALETTE, photo="in/b.jpg", boxes=boxes, scores=scores, class_ids=ids,
        masks=masks,
    )  # fmt: skip


@pytest.fixture
def panoptic():
    numbers = np.zeros((40, 60), np.int32)
    numbers[:20], numbers[20:, :30], numbers[20:, 30:50] = 1, 2, 70_000
    labels = np.full((40, 60), 3, np.uint8)  # 3: no class
    labels[:20], labels[20:, :50] = 0, 1
    segments = Segment(1, 0, False, 1200), Segment(2, 1, True, 600), Segment(70_000, 1, True, 400)
    return Result(
        PHOTO, CLASSES, PALETTE, photo="in/c.jpg", labels=labels, segments=segments,
        segment_map=numbers,
    )  # fmt: skip


def rle(mask):
    decode = pytest.importorskip("pycocotools.mask").decode
    return decode({**mask, "counts": mask["counts"].encode()}).astype(bool)


# ---------------------------------------------------------------------------------------- areas


def test_areas_are_px_of_the_classes_that_occur(segmented, panoptic):
    assert segmented.areas == {"sky": 1800, "dog": 600}
    assert panoptic.areas == {"sky": 1200, "car": 1000}  # without the pixels of no class
    assert Result(PHOTO, CLASSES).areas == {}


def test_overlapping_objects_of_a_class_count_once_and_unlikely_ones_do_not(detected):
    assert detected.areas == {"car": 300}
    assert len(detected.shown.boxes) == 2 and len(detected.boxes) == 3


# ------------------------------------------------------------------------------------- pictures


def test_an_overlay_shows_boxes_and_masks_in_the_class_colour(detected):
    drawn = np.asarray(detected.draw(opacity=1.0))
    assert drawn.shape == PHOTO.shape
    assert (drawn[18, 20] == PALETTE[1]).all()
    np.testing.assert_array_equal(drawn[30:, 45:], PHOTO[30:, 45:])  # below the score
    beside = np.asarray(detected.draw(side_by_side=True, opacity=1.0))
    np.testing.assert_array_equal(beside[:, :60], PHOTO)
    np.testing.assert_array_equal(beside[:, -60:], drawn)


def test_an_overlay_of_segments_shows_the_border_between_two_of_one_class(panoptic):
    drawn = np.asarray(panoptic.draw(side_by_side=False))[16:56, :60]
    painted = overlay(PHOTO, panoptic.labels, PALETTE)
    np.testing.assert_array_equal(drawn[25, 29], painted[25, 29])
    np.testing.assert_array_equal(drawn[25, 30], PHOTO[25, 30])
    np.testing.assert_array_equal(drawn[25, 55], PHOTO[25, 55])  # no class


@pytest.mark.parametrize("opacity", [-0.1, 1.5])
def test_an_opacity_outside_0_to_1_is_refused(segmented, opacity):
    with pytest.raises(ValueError, match=f"opacity={opacity}: expected 0"):
        segmented.draw(opacity=opacity)


def test_a_model_without_colours_gets_some():
    palette = Result(PHOTO, CLASSES).palette
    assert len(palette) == 3 and len({*palette}) == 3


# ------------------------------------------------------------------------------- JSON and COCO


def test_json_has_a_schema_sizes_areas_and_masks(segmented, detected, panoptic):
    found = json.loads(segmented.to_json())
    assert found["schema"] == 1 and found["classes"] == [*CLASSES]
    assert (found["photo"], found["width"], found["height"]) == ("in/a.jpg", 60, 40)
    assert found["areas"] == {"sky": 1800, "dog": 600} and "objects" not in found
    objects = json.loads(detected.to_json())["objects"]
    assert [(o["label"], o["class"], o["score"]) for o in objects] == [
        ("car", 1, 0.9), ("car", 1, 0.5), ("dog", 2, 0.1)
    ]  # fmt: skip
    assert objects[2]["box"] == [40, 30, 60, 40]
    for one, mask in zip(objects, detected.masks, strict=True):
        np.testing.assert_array_equal(rle(one["mask"]), mask)
    segments = json.loads(panoptic.to_json())["segments"]
    assert segments[2] == {"id": 70_000, "label": "car", "class": 1, "thing": True, "area": 400}


def test_coco_results_can_be_evaluated_by_pycocotools(detected, tmp_path):
    cocoapi = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    found = detected.to_coco(image_id=7, category_ids={"dog": 3, "sky": 1, "car": 5})
    assert [one["category_id"] for one in found] == [5, 5, 3]
    truth = [
        {**one, "id": i, "iscrowd": 0, "area": int(mask.sum())}
        for i, (one, mask) in enumerate(zip(found, detected.masks, strict=True), 1)
    ]
    content = {
        "images": [{"id": 7, "width": 60, "height": 40, "file_name": "b.jpg"}],
        "categories": [
            {"id": 1, "name": "sky"},
            {"id": 3, "name": "dog"},
            {"id": 5, "name": "car"},
        ],
        "annotations": truth,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(found))
    dataset = cocoapi.COCO(str(tmp_path / "truth.json"))
    for kind in ("bbox", "segm"):
        scores = COCOeval(dataset, dataset.loadRes(str(tmp_path / "found.json")), kind)
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
        assert scores.stats[0] == pytest.approx(1)


def test_coco_has_a_mask_per_class_of_labels_and_segments_of_panoptic_models(segmented, panoptic):
    found = segmented.to_coco()
    assert [one["category_id"] for one in found] == [1, 3]
    np.testing.assert_array_equal(rle(found[1]["segmentation"]), segmented.labels == 2)
    (found,) = panoptic.to_coco(4)
    assert found["image_id"] == 4 and found["file_name"] == "c.png"
    assert [one["id"] for one in found["segments_info"]] == [1, 2, 70_000]


def test_ids_come_from_a_coco_file_by_name(detected, tmp_path):
    categories = [{"id": 10 * i, "name": name} for i, name in enumerate(CLASSES, 1)]
    images = [{"id": 33, "file_name": "train/b.jpg", "width": 60, "height": 40}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": categories}))
    ids = CocoIds(file, CLASSES)
    assert ids.image_id(detected) == 33 and ids.categories["dog"] == 30
    with pytest.raises(ValueError, match="no category 'cat'"):
        CocoIds(file, ("cat",))
    with pytest.raises(ValueError, match="no photos of the name c.jpg"):
        ids.image_id(Result(PHOTO, CLASSES, photo="c.jpg"))
    file.write_text("[]")
    with pytest.raises(ValueError, match="is not a COCO file"):
        CocoIds(file, CLASSES)


def test_photos_of_one_name_are_told_apart_by_their_folders(tmp_path):
    images = [
        {"id": i, "file_name": name} for i, name in enumerate(("a/1.jpg", "b/1.jpg", "2.jpg"))
    ]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "sky"}]}))

    def id_of(photo, ids=None):
        return (ids or CocoIds(file, ("sky",))).image_id(Result(PHOTO, ("sky",), photo=photo))

    assert [id_of(f"photos/{name}") for name in ("a/1.jpg", "b/1.jpg", "c/2.jpg")] == [0, 1, 2]
    with pytest.raises(ValueError, match="has 2 photos of the name 1.jpg"):
        id_of("c/1.jpg")
    ids = CocoIds(file, ("sky",))
    assert id_of("c/2.jpg", ids) == 2
    with pytest.raises(ValueError, match="c/2.jpg has this photo's id, 2, in .*coco.json"):
        id_of("d/2.jpg", ids)


@pytest.mark.parametrize(
    ("form", "photo"),
    [
        ("/data/{}", "/data/b/1.jpg"),
        ("../{}", "/data/b/1.jpg"),
        ("./{}", "b/1.jpg"),
        ("http://images.org/{}", "/data/b/1.jpg"),
        ("c\\{}", "/data/c/b/1.jpg"),
    ],
)
def test_file_names_of_any_form_are_told_apart_by_their_folders(tmp_path, form, photo):
    images = [
        {"id": i, "file_name": form.format(name)} for i, name in enumerate(("a/1.jpg", "b/1.jpg"))
    ]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "sky"}]}))
    assert CocoIds(file, ("sky",)).image_id(Result(PHOTO, ("sky",), photo=photo)) == 1


def test_thousands_of_photos_get_their_ids_at_once(tmp_path):
    """Each by its name alone: looking through all names each time took minutes."""
    images = [{"id": i, "file_name": f"val/{i}.jpg"} for i in range(20_000)]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "sky"}]}))
    ids = CocoIds(file, ("sky",))
    for i in range(20_000):
        assert ids.image_id(Result(PHOTO, ("sky",), photo=f"elsewhere/{i}.jpg")) == i


def test_a_label_for_the_background_is_no_annotation():
    labels = np.zeros((40, 60), np.uint8)
    labels[:5] = 1
    found = Result(PHOTO, ("__background__", "cat"), labels=labels).to_coco()
    assert [one["category_id"] for one in found] == [1]


def test_torchvisions_background_is_no_category(tmp_path):
    classes = ("__background__", "cat", "dog")
    boxes, scores = np.array([[0, 0, 4, 4]], np.float32), np.array([0.9], np.float32)
    found = Result(PHOTO, classes, boxes=boxes, scores=scores, class_ids=np.array([2]))
    assert [one["category_id"] for one in found.to_coco()] == [2]
    categories = [{"id": 10, "name": "dog"}, {"id": 20, "name": "cat"}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "a"}], "categories": categories}))
    ids = CocoIds(file, classes)
    assert [one["category_id"] for one in found.to_coco(1, ids.categories)] == [10]
    assert ids.as_dataset()["categories"] == [{"id": 20, "name": "cat"}, {"id": 10, "name": "dog"}]


def test_supervision_takes_the_result(segmented, detected, panoptic):
    pytest.importorskip("supervision")
    found = detected.to_supervision()
    np.testing.assert_array_equal(found.xyxy, detected.boxes)
    np.testing.assert_array_equal(found.mask, detected.masks)
    assert list(found.data["class_name"]) == ["car", "car", "dog"]
    assert segmented.to_supervision().mask.sum((1, 2)).tolist() == [1800, 600]
    assert panoptic.to_supervision().mask.sum((1, 2)).tolist() == [1200, 600, 400]


def test_a_missing_supervision_is_named(run_python):
    out = run_python(
        "import sys; sys.modules['supervision'] = None\n"
        "import numpy as np\n"
        "from fpn_neck.utils.results.result import Result\n"
        "try:\n"
        "    Result(np.zeros((2, 2, 3), np.uint8), ('a',)).to_supervision()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert out.strip() == "to_supervision() needs supervision: pip install supervision"


# ---------------------------------------------------------------------------------------- files


def test_a_result_is_saved_with_its_palette_and_can_be_read_back(segmented, tmp_path):
    segmented.save(tmp_path)
    labels = Image.open(tmp_path / "labels/a.png")
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), segmented.labels)
    assert labels.convert("RGB").getpixel((0, 15)) == PALETTE[2]
    (found,) = json.loads((tmp_path / "results.json").read_text())["photos"]
    assert found["outputs"] == {"labels": "labels/a.png", "overlay": "overlays/a.png"}
    for file in found["outputs"].values():
        assert (tmp_path / file).is_file()


def test_results_are_saved_beside_earlier_ones(segmented, detected, tmp_path):
    for one in (segmented, detected, segmented):
        one.save(tmp_path)
    tables = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("photos", "results", "detections")
    }
    assert tables["photos"] == {"in/a.jpg": "a", "in/b.jpg": "b"}
    assert [one["photo"] for one in tables["results"]["photos"]] == ["in/b.jpg", "in/a.jpg"]
    assert list(tables["detections"]) == ["in/b.jpg"]


def test_a_saved_result_leaves_what_predict_wrote(detected, segmented, tmp_path):
    """COCO's files, photos that failed, and a photo without pictures."""
    pytest.importorskip("pycocotools")
    results = ResultsFolder(tmp_path, CLASSES, overlay="none", coco=True)
    results.add(detected, "x/b")
    results.finish({"z.jpg": "broken", "in/a.jpg": "broken"})
    files = sorted(p.name for p in (tmp_path / "coco").iterdir())
    segmented.save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["failed"] == [{"photo": "z.jpg", "error": "broken"}]
    assert [one["name"] for one in content["photos"]] == ["x/b", "a"]
    assert sorted(p.name for p in (tmp_path / "coco").iterdir()) == files != []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 0}'])
def test_tables_that_cannot_be_read_are_not_written_over(segmented, tmp_path, text):
    segmented.save(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results.json can't be read .* remove it, or give"):
        segmented.save(tmp_path)


def test_a_photo_by_another_path_is_the_same_photo(segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    segmented.save("out")
    replace(segmented, photo=str(tmp_path / "in/a.jpg")).save("out", "./a")
    (found,) = json.loads((tmp_path / "out/results.json").read_text())["photos"]
    assert found["photo"] == str(tmp_path / "in/a.jpg")


def test_a_name_of_another_photo_is_not_overwritten(segmented, tmp_path):
    segmented.save(tmp_path)
    other = replace(segmented, photo="other/a.jpg")
    with pytest.raises(ValueError, match="has the name 'a' for in/a.jpg: give another name"):
        other.save(tmp_path)
    other.save(tmp_path, "other/a")
    assert json.loads((tmp_path / "photos.json").read_text()) == {
        "in/a.jpg": "a",
        "other/a.jpg": "other/a",
    }
    with pytest.raises(ValueError, match="of a model with other classes"):
        replace(segmented, classes=("sky", "car", "cat")).save(tmp_path)


def test_a_result_of_an_array_has_no_photo_in_the_tables(segmented, tmp_path):
    replace(segmented, photo=None).save(tmp_path)
    assert json.loads((tmp_path / "photos.json").read_text()) == {}
    assert len(json.loads((tmp_path / "results.json").read_text())["photos"]) == 1


def test_masks_that_begin_with_1_are_saved_so_in_the_same_colours(segmented, tmp_path):
    replace(segmented, first_value=1).save(tmp_path)
    labels = Image.open(tmp_path / "labels/a.png")
    np.testing.assert_array_equal(np.asarray(labels), segmented.labels + 1)
    assert labels.convert("RGB").getpixel((0, 15)) == PALETTE[2]


def test_a_panoptic_picture_holds_the_numbers_of_the_segments(panoptic, tmp_path):
    results = ResultsFolder(tmp_path, CLASSES, coco=True)
    results.add(panoptic, "c")
    results.finish()
    pixels = np.asarray(Image.open(tmp_path / "panoptic/c.png")).astype(int)
    numbers = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
    np.testing.assert_array_equal(numbers, panoptic.segment_map)
    (found,) = json.loads((tmp_path / "coco/panoptic.json").read_text())
    listed = json.loads((tmp_path / "coco/instances.json").read_text())
    assert found["image_id"] == listed["images"][0]["id"]
    assert [one["name"] for one in listed["categories"]] == [*CLASSES]


# -------------------------------------------------------------------------------- the interface


class Copies(Predictor):
    """Not a model: gives back what it was given, and counts."""

    classes = CLASSES

    def __init__(self):
        self.calls = []

    def predict(self, photos):
        self.calls.append(len(photos))
        images = [p if isinstance(p, np.ndarray) else read_photo(p) for p in photos]
        return [Result(image, CLASSES) for image in images]


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate("cab"):
        Image.fromarray(PHOTO + np.uint8(i)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_one_photo_gives_a_result_and_many_give_a_list(folder):
    predictor = Copies()
    path = folder / "c.png"
    for photo in (path, str(path), PHOTO, Image.open(path)):
        np.testing.assert_array_equal(predictor(photo).image, PHOTO)
    found = predictor(folder)
    assert [int(one.image[0, 0, 0]) - int(PHOTO[0, 0, 0]) for one in found] == [1, 2, 0]
    assert len(predictor([path, PHOTO, folder])) == 5
    assert predictor([]) == [] and len(predictor([path])) == 1


def test_views_of_arrays_are_photos():
    """Also in the usual way from BGR to RGB, which gives a view with a negative stride."""
    for photo in (PHOTO[..., ::-1], PHOTO[:, ::-1], PHOTO[::2, ::3]):
        result = Copies()(photo)
        np.testing.assert_array_equal(result.image, photo)
        assert all(stride > 0 for stride in result.image.strides)


def test_a_pil_image_of_16_bits_is_read_as_its_file_is(tmp_path):
    image = Image.fromarray(np.array([[255, 1000], [32768, 65535]], np.uint16))
    image.save(tmp_path / "a.png")
    for photo in (image, tmp_path / "a.png"):
        assert Copies()(photo).image[..., 0].tolist() == [[0, 3], [128, 255]]
    with pytest.raises(ValueError, match="mode F: numbers of no known range"):
        Copies()(Image.new("F", (2, 2)))


def test_photos_go_to_the_model_in_batches(folder):
    predictor = Copies()
    assert len(predictor([folder, PHOTO], batch=3)) == 4
    assert predictor.calls == [3, 1]


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (3, "a photo is a int"),
        (PHOTO.astype(float), r"float64 \(40, 60, 3\): expected uint8"),
        (PHOTO.transpose(2, 0, 1), r"\(3, 40, 60\): expected uint8 \(H, W, 3\)"),
        (PHOTO[:0], r"\(0, 60, 3\)"),
        ("missing.jpg", "photo 'missing.jpg': no such file"),
        ("", "photo '': no such file"),  # Path("") is the current folder
        (Image.new("RGB", (0, 5)), "a photo is 0x5 px: it has no pixels"),
        (None, "a photo is a NoneType"),
        (b"abc", "a photo is a bytes"),
        ({"a": 1}, "a photo is a dict"),
    ],
)
def test_what_is_not_a_photo_is_refused(photo, words):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words):
        Copies()([photo])
    if not isinstance(photo, np.ndarray):
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words):
            Copies()(photo)


def test_arrays_are_found_by_the_name_that_they_were_given(detected, tmp_path):
    folder = ResultsFolder(tmp_path, CLASSES, overlay="none")
    for name in ("one", "two"):
        folder.add(replace(detected, photo=None), name)
    folder.finish()
    assert [*json.loads((tmp_path / "detections.json").read_text())] == ["one", "two"]
