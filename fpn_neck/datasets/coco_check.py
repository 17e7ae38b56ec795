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

from fpn_neck.datasets.file_check import Finding, Refused, unreadable

NOT_COCO = "annotation file lacks what mmdet reads"
TWICE = "an id stands twice in the annotation file"
CLASSES = "categories of the annotation file don't match classes"
NO_CATEGORY = "annotation of a category that its file doesn't list"
NO_IMAGE = "annotation of a photo that its file doesn't list"
EMPTY_BOX = "box is empty"
NO_OUTLINE = "box without its object's outline, which training reads"
OUTSIDE = "box reaches out of its photo"
MASK_SIZE = "instance mask and photo differ in size"
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
    NO_OUTLINE: "draw it (segmentation), or remove the box, or take a detector of boxes alone",
    OUTSIDE: "clip it; bbox is [x, y, width, height] in px, from 0, at the photo's own size",
    MASK_SIZE: "make the mask at the photo's own size",
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
        Refused: UNREADABLE, or NOT_COCO.
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
        return json.loads(path.read_bytes())
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
        outlines: every box of a class needs one.
    """
    findings = _twice(file, content, ["images", *["annotations"] * unique, "categories"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    photos = {image["id"]: image for image in content["images"]}
    count: Counter[str] = Counter()
    seen: set[tuple[str, Any]] = set()
    for one in content["annotations"]:
        photo, name = photos.get(one["image_id"]), names.get(one["category_id"])
        if photo is None:
            value = f"annotation {one['id']}: image_id {one['image_id']}"
            findings.append(Finding(NO_IMAGE, file, value))
            continue
        where = f"annotation {one['id']} of {photo['file_name']}"
        if name is None:
            value = f"{where}: category_id {one['category_id']}"
            findings.append(Finding(NO_CATEGORY, file, value))
            continue
        kind, value = _wrong_box(one, photo)
        if not kind and outlines and name in classes and not one.get("segmentation"):
            kind, value = NO_OUTLINE, f"segmentation {one.get('segmentation')}"
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


def _twice(file: str, content: Mapping[str, Any], lists: Sequence[str]) -> list[Finding]:
    return [
        Finding(TWICE, file, f"{name}: id {number} stands there {n} times")
        for name in lists
        for number, n in Counter(entry["id"] for entry in content[name]).items()
        if n > 1
    ]


def _wrong_box(annotation: Mapping[str, Any], photo: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, value) of what is wrong with a box or its mask; ("", "") if nothing is."""
    box, size = annotation["bbox"], (photo["width"], photo["height"])
    area = annotation["area"]
    shown = f"bbox {box}, area {area}, photo {size[0]}x{size[1]} px"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, (*box, area, *size))):
        return NOT_COCO, f"{shown}: four numbers, a number, two numbers are wanted"
    x, y, width, height = box
    if width < 1 or height < 1 or area <= 0:
        return EMPTY_BOX, shown
    right, bottom = x + width - size[0], y + height - size[1]
    if min(x, y) < -_TOLERANCE or max(right, bottom) > _TOLERANCE:
        return OUTSIDE, shown
    mask = annotation.get("segmentation")
    if isinstance(mask, dict) and mask.get("size") != [size[1], size[0]]:
        return MASK_SIZE, f"segmentation size {mask.get('size')} (height, width), {shown}"
    return "", ""


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and -math.inf < number < math.inf


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
