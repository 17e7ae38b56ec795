"""Checks of a COCO annotation file, as mmdet's ``CocoDataset`` reads it."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.datasets.check.findings import BOM, Finding, Refused, unreadable
from fpn_neck.datasets.check.outlines import wrong_outline

NOT_COCO = "annotation file lacks what mmdet reads"
TWICE = "an id stands twice in the annotation file"
CLASSES = "categories of the annotation file don't match classes"
NO_CATEGORY = "annotation of a category that its file doesn't list"
NO_IMAGE = "annotation of a photo that its file doesn't list"
EMPTY_BOX = "box is empty"
NO_BOX = "data set for training has no box of its classes"
OUTSIDE = "box reaches out of its photo"
REMEDY = {
    NOT_COCO: "add it: see cocodataset.org, 'Data format'",
    TWICE: "number them anew when files are joined",
    CLASSES: (
        "set metainfo=dict(classes=...) to the categories' names in the file's order: mmdet gives "
        "label 0 to the first category of the file that is among the classes"
    ),
    NO_CATEGORY: "correct its category_id, or list the category",
    NO_IMAGE: "correct its image_id, or remove it",
    EMPTY_BOX: "remove it or draw it again; mmdet leaves boxes below 1 px out without a word",
    NO_BOX: "correct ann_file, or export the annotations again",
    OUTSIDE: "clip it; bbox is [x, y, width, height] in px, from 0, at the photo's own size",
}
_TOLERANCE = 1.0  # px that a box may reach over the photo's border
_NUMBER, _ID = (int, float), (int, float, str)
_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": _ID, "file_name": str, "height": _NUMBER, "width": _NUMBER},
    "annotations": {
        **{"id": _ID, "image_id": _ID, "category_id": _ID},
        **{"bbox": object, "area": object},  # looked at one by one
    },
    "categories": {"id": _ID, "name": str},
}


class Boxes(NamedTuple):
    """What an annotation file holds.

    Attributes:
        boxes, photos: per class, int64 (K,): its boxes, and the photos with at least one.
        left_out: boxes of categories that are no class, by category.
    """

    findings: list[Finding]
    boxes: np.ndarray
    photos: np.ndarray
    left_out: dict[str, int]


def read_coco(path: Path, *, panoptic: bool = False) -> dict[str, Any]:
    """The annotation file's content, in which every entry has what mmdet reads of it.

    Args:
        panoptic: the annotations are those of a panoptic file, and become its segments.

    Raises:
        Refused: UNREADABLE, BOM, or NOT_COCO.
    """
    try:
        content = _parse(path)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise Refused(NOT_COCO, f"a {type(content).__name__}, not images, annotations, categories")
    content.setdefault("annotations", [])  # files for testing have none
    if panoptic:
        content["annotations"] = _segments(content["annotations"])
    for name, keys in _KEYS.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            raise Refused(NOT_COCO, f"no list {name!r}")
        for i, entry in enumerate(entries):
            known = entry if isinstance(entry, dict) else {}
            lacking = [
                k for k, of in keys.items() if k not in known or not isinstance(known[k], of)
            ]
            if lacking:
                raise Refused(NOT_COCO, f"{name}[{i}] has no valid {', '.join(lacking)}")
    return content


def _parse(path: Path) -> Any:
    """Half the time goes into garbage collections, which find nothing among millions of objects."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with path.open() as file:  # as pycocotools does
            text = file.read()
        if text.startswith("\ufeff"):
            raise Refused(BOM, "begins with U+FEFF")
        return json.loads(text)
    finally:
        if collects:
            gc.enable()


def _segments(annotations: Any) -> Any:
    """As mmdet lists them: each an annotation of its photo."""
    if not isinstance(annotations, list):
        return annotations
    segments = []
    for i, one in enumerate(annotations):
        if not isinstance(one, dict) or not isinstance(one.get("segments_info"), list):
            raise Refused(NOT_COCO, f"annotations[{i}] has no valid segments_info")
        photo = {"image_id": one.get("image_id")}
        segments += [s | photo if isinstance(s, dict) else s for s in one["segments_info"]]
    return segments


def check_categories(file: str, content: Mapping[str, Any], classes: Sequence[str]):
    """Compare the categories with ``classes``: every one there, in the file's order."""
    names = [category["name"] for category in content["categories"]]
    missing = [name for name in classes if name not in names]
    if missing:
        value = f"classes {_some(missing)} not among the {len(names)} categories"
        close = get_close_matches(str(missing[0]), names, n=1)
        return [Finding(CLASSES, file, value + (f"; {close[0]!r} is" if close else ""))]
    twice = [name for name, n in Counter(classes).items() if n > 1]
    if twice:
        return [Finding(CLASSES, file, f"classes {_some(twice)} twice")]
    taken = [name for name in names if name in classes]
    if taken == list(classes):
        return []
    wrong = next(i for i, name in enumerate(taken) if i >= len(classes) or classes[i] != name)
    expected = classes[wrong] if wrong < len(classes) else "nothing"
    value = f"label {wrong} becomes {taken[wrong]!r}, and classes[{wrong}] is {expected!r}"
    return [Finding(CLASSES, file, value)]


def check_annotations(
    file: str,
    content: Mapping[str, Any],
    classes: Sequence[str],
    *,
    unique: bool = True,
    outlines: bool = False,
) -> Boxes:
    """Check boxes and ids, and count the boxes of each class.

    Args:
        unique: no two annotations may have one id; segments of two photos may.
        outlines: every box of a class needs a right one.
    """
    findings = _twice(file, content, ["images", *["annotations"] * unique, "categories"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    photos = {image["id"]: image for image in content["images"]}
    like_photo, like_name = ({str(i): i for i in known} for known in (photos, names))
    count: Counter[str] = Counter()
    seen: set[tuple[str, Any]] = set()
    for one in content["annotations"]:
        photo, name = photos.get(one["image_id"]), names.get(one["category_id"])
        if photo is None:
            value = f"annotation {one['id']!r}: image_id {_unknown(one['image_id'], like_photo)}"
            findings.append(Finding(NO_IMAGE, file, value))
            continue
        where = f"annotation {one['id']!r} of {photo['file_name']}"
        if name is None:
            value = f"{where}: category_id {_unknown(one['category_id'], like_name)}"
            findings.append(Finding(NO_CATEGORY, file, value))
            continue
        kind, value = _wrong_box(one, photo)
        if not kind and outlines and name in classes and _has_size(photo):
            size = photo["width"], photo["height"]
            kind, value = wrong_outline(one.get("segmentation"), size)
        if kind:
            findings.append(Finding(kind, file, f"{where}: {value}"))
        count[name] += 1
        seen.add((name, photo["id"]))
    in_photos = Counter(name for name, _ in seen)
    return Boxes(
        findings,
        np.array([count[name] for name in classes], np.int64),
        np.array([in_photos[name] for name in classes], np.int64),
        {name: n for name, n in count.items() if name not in classes},
    )


def has_boxes(content: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a box of any class is there."""
    ids = {category["id"] for category in content["categories"] if category["name"] in classes}
    return any(one["category_id"] in ids for one in content["annotations"])


def _unknown(number: Any, known: Mapping[str, Any]) -> str:
    """An id that isn't known, and one that looks like it."""
    other = known.get(str(number), number)
    differ = type(other) is not type(number)
    return f"{number!r}" + (f", its file lists {other!r}: types differ" if differ else "")


def _has_size(photo: Mapping[str, Any]) -> bool:
    """If not, that is found when the photo's own size is compared."""
    return all(_is_finite(photo[name]) and photo[name] > 0 for name in ("width", "height"))


def _twice(file: str, content: Mapping[str, Any], lists: Sequence[str]) -> list[Finding]:
    return [
        Finding(TWICE, file, f"{name}: id {number!r} stands there {n} times")
        for name in lists
        for number, n in Counter(entry["id"] for entry in content[name]).items()
        if n > 1
    ]


def _wrong_box(annotation: Mapping[str, Any], photo: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, value) of what is wrong with a box; ("", "") if nothing is."""
    box, size = annotation["bbox"], (photo["width"], photo["height"])
    area = annotation["area"]
    shown = f"bbox {box}, area {area}, photo {size[0]}x{size[1]} px"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, (*box, area))):
        return NOT_COCO, f"{shown}: four numbers and a number are wanted"
    x, y, width, height = box
    if width < 1 or height < 1 or area <= 0:
        return EMPTY_BOX, shown
    if not _has_size(photo):
        return "", ""
    right, bottom = x + width - size[0], y + height - size[1]
    if min(x, y) < -_TOLERANCE or max(right, bottom) > _TOLERANCE:
        return OUTSIDE, shown
    return "", ""


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and -math.inf < number < math.inf


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
