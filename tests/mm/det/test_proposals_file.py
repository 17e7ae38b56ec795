"""Proposals files: what mmdet reads is read without running code, what is wrong is refused."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from fpn_neck.mm.det.proposals_file import (
    DatasetPhoto,
    Proposals,
    check_proposals,
    load_proposals,
    photo_key,
)

BOXES = np.array([[1, 2, 30, 40], [0, 0, 5.5, 6.25], [7, 7, 7, 9]], np.float32)
SCORES = np.array([0.9, 0.5, 0.25], np.float32)


@pytest.fixture
def write(tmp_path):
    """Pickle anything, or write bytes, to a proposals file."""

    def to_file(content, name="p.pkl", protocol=2):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        path.write_bytes(data)
        return path

    return to_file


def assert_boxes(found, boxes=BOXES, scores=SCORES):
    assert found.boxes.dtype == found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.boxes, boxes)  # exact: the same numbers
    np.testing.assert_array_equal(found.scores, scores)


# ---------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("meta", [None, {"photo_bytes": 1234}])
def test_instance_data(write, protocol, meta):
    structures = pytest.importorskip("mmengine.structures")
    entry = structures.InstanceData(metainfo=meta, bboxes=BOXES, scores=SCORES)
    found = load_proposals(write({"images/1.jpg": entry}, protocol=protocol))
    assert list(found) == ["images/1.jpg"]
    assert_boxes(found["images/1.jpg"])
    assert found["images/1.jpg"].photo_bytes == (1234 if meta else None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_plain_dictionaries(write, dtype):
    boxes = BOXES.astype(dtype)
    found = load_proposals(write({"a/b.jpg": {"bboxes": boxes, "scores": SCORES}}))["a/b.jpg"]
    assert_boxes(found, boxes.astype(np.float32))


def test_without_scores_they_are_0_as_in_mmdet(write):
    assert_boxes(load_proposals(write({"a/b.jpg": {"bboxes": BOXES}}))["a/b.jpg"], scores=[0, 0, 0])


def test_json(write):
    text = json.dumps({"a.jpg": BOXES.tolist(), "b.jpg": []}).encode()
    found = load_proposals(write(text, "boxes.json"))
    assert_boxes(found["a.jpg"], scores=[0, 0, 0])
    assert found["b.jpg"].boxes.shape == (0, 4) and found["b.jpg"].scores.shape == (0,)


def test_key_is_mmdets():
    assert photo_key("/data/coco/train2017/1.jpg") == "train2017/1.jpg"
    assert photo_key("1.jpg") == "1.jpg"


# ------------------------------------------------------------------------------ unreadable files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_pickle_is_not_run(write, tmp_path):
    path = write({"a/b.jpg": Evil(str(tmp_path / "executed"))})
    with pytest.raises(ValueError, match="code"):
        load_proposals(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())  # it is really evil
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(write, part):
    whole = pickle.dumps({f"a/{i}.jpg": {"bboxes": BOXES, "scores": SCORES} for i in range(9)})
    with pytest.raises(ValueError, match="truncated"):
        load_proposals(write(whole[: int(part * len(whole))]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.pkl", b"no pickle at all", "cannot be read"),
        ("p.json", b'{"a.jpg": [[1, 2, 3', "cannot be read"),
        ("p.json", b"\xff\xfe", "cannot be read"),
        ("p.json", b"[[1, 2, 3, 4]]", "a list"),
        ("p.pkl", [BOXES], "mmdet 2"),
        ("p.pkl", {3: {"bboxes": BOXES}}, "not a file name"),
        ("p.pkl", {"a": {"scores": SCORES}}, "no boxes"),
        ("p.pkl", {"a": {"bboxes": np.ones((3, 5))}}, r"\(3, 5\)"),
        ("p.pkl", {"a": {"bboxes": np.ones(4)}}, r"\(4,\)"),
        ("p.pkl", {"a": {"bboxes": BOXES, "scores": SCORES[:2]}}, r"\(2,\)"),
        ("p.pkl", {"a": {"bboxes": BOXES * np.nan}}, "NaN"),
        ("p.pkl", {"a": {"bboxes": BOXES, "scores": SCORES + np.inf}}, "infinity"),
        ("p.json", b'{"a.jpg": [["x", 1, 2, 3]]}', "no boxes"),
        ("p.json", b'{"a.jpg": [[1, 2, 3, 4], [1, 2]]}', "no boxes"),
        ("p.json", b'{"a.jpg": {"b": 1}}', "no boxes"),
        ("p.json", b'{"a.jpg": [[50, 60, 10, 20]]}', "width, height"),
    ],
)
def test_what_is_no_file_of_boxes_is_refused(write, name, content, words):
    with pytest.raises(ValueError, match=words):
        load_proposals(write(content, name))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.pkl"):
        load_proposals(tmp_path / "no.pkl")


# -------------------------------------------------------------------------- files of other photos


@pytest.fixture
def data(tmp_path):
    """Three photos of 60 x 50 px, 100, 101 and 102 bytes long, and the proposals made of them."""
    folder = tmp_path / "train/images"
    folder.mkdir(parents=True)
    photos, proposals = [], {}
    for i in range(3):
        path = folder / f"{i}.jpg"
        path.write_bytes(bytes(100 + i))
        photos.append(DatasetPhoto(path, height=50, width=60))
        proposals[f"images/{i}.jpg"] = Proposals(BOXES, SCORES, 100 + i)
    return SimpleNamespace(photos=photos, proposals=proposals, folder=folder)


def refused(data, *words, error=ValueError):
    with pytest.raises(error) as raised:
        check_proposals("p.pkl", data.proposals, data.photos)
    for word in words:
        assert word in str(raised.value), (word, str(raised.value))


def test_the_right_file_passes(data):
    check_proposals("p.pkl", data.proposals, data.photos)


def test_mmdets_own_file_passes_without_file_sizes(data):
    data.proposals = {k: v._replace(photo_bytes=None) for k, v in data.proposals.items()}
    check_proposals("p.pkl", data.proposals, data.photos)


def test_a_moved_root_passes(data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = data.folder.rename(tmp_path / "elsewhere/images")
    data.photos = [p._replace(path=moved / p.path.name) for p in data.photos]
    check_proposals("p.pkl", data.proposals, data.photos)


def test_a_renamed_folder_is_refused(data):
    moved = data.folder.rename(data.folder.with_name("pictures"))
    data.photos = [p._replace(path=moved / p.path.name) for p in data.photos]
    refused(data, "moved", "'images/0.jpg'", "'pictures/0.jpg'", "fpn-neck make_proposals")


def test_another_split_with_the_same_names_is_refused(data):
    for photo in data.photos:
        photo.path.write_bytes(bytes(200))
    refused(data, "p.pkl", "3 photos", "images/0.jpg", "another split")


def test_a_file_of_a_filtered_data_set_is_refused(data):
    del data.proposals["images/1.jpg"]
    refused(data, "1 photos (images/1.jpg) without an entry", "filtered")


def test_entries_of_no_photo_are_refused(data):
    data.proposals["images/9.jpg"] = data.proposals["images/0.jpg"]
    refused(data, "1 entries (images/9.jpg) without a photo")


def test_another_data_set_is_refused(data):
    data.proposals = {f"other/{i}.png": data.proposals["images/0.jpg"] for i in range(10)}
    refused(
        data, "3 photos (images/0.jpg", "10 entries (other/0.png, ", "and 7 more", "another split"
    )


def test_an_empty_file_is_refused(data):
    data.proposals = {}
    refused(data, "3 photos", "without an entry")


def test_a_photo_without_boxes_is_refused(data):
    none = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    data.proposals["images/2.jpg"] = none
    refused(data, "1 photos (images/2.jpg) without a single box")


def test_two_photos_of_one_name_are_refused(data, tmp_path):
    twin = tmp_path / "val/images/0.jpg"
    twin.parent.mkdir(parents=True)
    twin.write_bytes(bytes(100))
    data.photos.append(DatasetPhoto(twin, 50, 60))
    refused(data, "images/0.jpg", "several photos", "rename")


@pytest.mark.parametrize(
    ("box", "passes"),
    [((0, 0, 60, 50), True), ((-0.9, 0, 60.9, 50.9), True)]
    + [((0, 0, 62, 50), False), ((0, 0, 60, 52), False), ((-2, 0, 5, 5), False)],
)
def test_boxes_end_in_the_photo(data, box, passes):
    boxes = np.array([box], np.float32)
    data.proposals["images/1.jpg"] = Proposals(boxes, np.ones(1, np.float32))
    if passes:
        check_proposals("p.pkl", data.proposals, data.photos)
    else:
        refused(data, "images/1.jpg", "another scale")


def test_missing_photos_are_named(data):
    data.photos[1].path.unlink()
    refused(data, str(data.photos[1].path), error=FileNotFoundError)


@pytest.mark.parametrize("form", ["json", "arrays", "lists"])
def test_what_mmdet_cannot_read_is_refused_for_mmdet_only(tmp_path, form):
    boxes = [[1.0, 2.0, 3.0, 4.0]]
    content = {
        "json": boxes,
        "arrays": np.array(boxes, np.float32),
        "lists": {"bboxes": boxes},
    }[form]
    path = tmp_path / ("boxes.json" if form == "json" else "boxes.pkl")
    if form == "json":
        path.write_text(json.dumps({"a/b.jpg": content}))
    else:
        path.write_bytes(pickle.dumps({"a/b.jpg": content}))
    assert load_proposals(path)["a/b.jpg"].boxes.tolist() == boxes
    with pytest.raises(ValueError, match="only with a pickle of InstanceData.*make_proposals"):
        load_proposals(path, for_mmdet=True)


def test_a_photo_twice_in_a_json_file_is_refused(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text('{"a.jpg": [[0, 0, 1, 1]], "a.jpg": []}')
    with pytest.raises(ValueError, match="a.jpg.*more than once"):
        load_proposals(path)
