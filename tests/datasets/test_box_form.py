"""Boxes, outlines and areas that are numbers of another form than COCO's, and outlines as RLE."""

import numpy as np
import pytest

from fpn_neck.datasets.check import box_form, boxes, kinds, outlines
from fpn_neck.datasets.check.coco import check_annotations, check_outlines_exist

CLASSES = ("cat",)
FORMS = {
    "[x, y, width, height]": lambda x, y, w, h: [x, y, w, h],
    "[x1, y1, x2, y2]": lambda x, y, w, h: [x, y, x + w, y + h],
    "[x centre, y centre, width, height]": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "[y, x, height, width]": lambda x, y, w, h: [y, x, h, w],
}


def file_of(form, *, outlined, draw, count=40):
    """Objects in the upper left quarter of 800 x 600 px, so that no box leaves the photo."""
    annotations = []
    for i in range(1, count + 1):
        x, y = draw.integers(10, 200, 2).tolist()
        w, h = draw.integers(30, 90, 2).tolist()
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        box = {"id": i, "image_id": 1, "category_id": 1, "bbox": form(x, y, w, h), "iscrowd": 0}
        annotations.append(box | {"area": w * h, "segmentation": polygon if outlined else []})
    image = {"id": 1, "file_name": "a.jpg", "width": 800, "height": 600}
    return {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("outlined", [True, False])
def test_boxes_of_another_form_are_found_by_outlines_or_areas(name, outlined):
    content = file_of(FORMS[name], outlined=outlined, draw=np.random.default_rng(0))
    found = box_form.check_form("f.json", content)
    told_by_area = name == "[x1, y1, x2, y2]"  # the others have the same area
    if name == "[x, y, width, height]" or not (outlined or told_by_area):
        assert found == []
        return
    (finding,) = found
    assert finding.kind == kinds.BOX_FORM
    assert f"as {name}, 0 as [x, y, width, height]" in finding.value
    assert check_annotations("f.json", content, CLASSES).findings == []  # each one could be right


def test_a_few_odd_boxes_are_no_other_form():
    content = file_of(FORMS["[x, y, width, height]"], outlined=True, draw=np.random.default_rng(1))
    for one in content["annotations"][:15]:  # half hidden objects, whose box is the whole one
        one["bbox"][2] *= 2
        one["segmentation"] = one["segmentation"] * 2
    assert box_form.check_form("f.json", content) == []


def test_areas_that_are_not_those_of_the_objects():
    content = file_of(FORMS["[x, y, width, height]"], outlined=True, draw=np.random.default_rng(2))
    judged = content["annotations"]
    assert box_form.check_areas("f.json", judged) == []
    assert box_form.check_areas("f.json", [one | {"area": one["area"] / 2} for one in judged]) == []
    for area, words in ((480_000, "40 of 40 are larger than their boxes"), (1, "all 40 are 1")):
        (finding,) = box_form.check_areas("f.json", [one | {"area": area} for one in judged])
        assert finding.kind == kinds.AREA and words in finding.value


def test_boxes_are_ignored_for_their_outlines_by_mmdets_own_rules():
    pytest.importorskip("mmdet")
    from mmdet.datasets.transforms import LoadAnnotations

    right = [[1.0, 1.0, 8.0, 1.0, 8.0, 6.0]]
    compressed = {"size": [10, 12], "counts": "`0d03"}
    given = [
        right,
        [[1.0, 1.0, 8.0, 6.0]],  # a box
        [[1.0, 1.0, 8.0, 1.0, 8.0, 6.0, 3.0]],
        [[1.0, 1.0, 8.0, 6.0], *right],
        {"size": [10, 12], "counts": [10, 20, 90]},
        {"size": [10, 12]},
        {"counts": [10, 20, 90]},
        compressed,
    ]
    for bitmaps in (True, False):
        load = LoadAnnotations(with_bbox=True, with_mask=True, poly2mask=bitmaps)
        for outline in given:
            instance = {"bbox": [1, 1, 8, 6], "bbox_label": 0, "ignore_flag": 0, "mask": outline}
            results = {"instances": [instance], "ori_shape": (10, 12), "img_shape": (10, 12)}
            expected = bool(load(results)["gt_ignore_flags"][0])
            assert outlines.is_ignored(outline, polygons_only=not bitmaps) == expected, outline


def test_no_box_to_train_on_if_all_outlines_are_ignored():
    content = file_of(FORMS["[x, y, width, height]"], outlined=True, draw=np.random.default_rng(3))
    for one in content["annotations"]:
        one["segmentation"] = [one["bbox"]]
    trained = boxes.trained_boxes(content, CLASSES, content["images"], outlines.is_ignored)
    assert list(trained) == []
    assert len(list(boxes.trained_boxes(content, CLASSES, content["images"]))) == 40
    counts = boxes.count_left_out(content, CLASSES, content["images"], outlines.is_ignored)
    assert counts == "40 without a valid outline"


def test_objects_without_any_outline_are_counted():
    content = file_of(FORMS["[x, y, width, height]"], outlined=True, draw=np.random.default_rng(4))
    assert check_outlines_exist("f.json", content, CLASSES) == []
    assert check_outlines_exist("f.json", content, ("dog",)) == []
    del content["annotations"][6]["segmentation"]
    (finding,) = check_outlines_exist("f.json", content, CLASSES)
    assert finding.kind == kinds.NO_OUTLINE and "1 of 40 annotations" in finding.value


def test_an_rle_outside_of_its_box_or_without_a_pixel():
    """Against the pixels themselves, for random masks, as lists and as pycocotools' text."""
    mask = pytest.importorskip("pycocotools.mask")
    draw, outside = np.random.default_rng(5), 0
    for _ in range(300):
        height, width = draw.integers(3, 14, 2).tolist()
        truth = np.zeros((height, width), np.uint8)
        x, y = draw.integers(0, width), draw.integers(0, height)
        truth[y : y + draw.integers(0, 6), x : x + draw.integers(0, 6)] = 1
        rle = mask.encode(np.asfortranarray(truth))
        runs = np.flatnonzero(np.diff(np.r_[0, truth.T.ravel(), 0]))
        counts = np.diff(np.r_[0, runs, truth.size]).tolist()
        left, top = draw.integers(0, width), draw.integers(0, height)
        box = [int(left), int(top), *draw.integers(1, 6, 2).tolist()]
        rows, columns = np.nonzero(truth)
        meets = bool(rows.size) and (
            min(columns.max() + 1, left + box[2]) > max(columns.min(), left)
            and min(rows.max() + 1, top + box[3]) > max(rows.min(), top)
        )
        for form in (rle["counts"].decode(), counts):
            found = outlines.wrong_outline(
                {"size": [height, width], "counts": form}, truth.T.shape, box
            )
            assert (found is None) == meets, (truth, box)
            assert meets or found[0] == kinds.OUTLINE_ELSEWHERE
        outside += not meets
    assert 50 < outside < 250
