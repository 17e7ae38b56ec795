"""Checks of a COCO annotation file, as mmdet's ``CocoDataset`` reads it."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.boxes import (
    category_ids,
    has_size,
    is_empty,
    left_out,
    wrong_box,
)
from fpn_neck.datasets.check.findings import Finding, InvalidFile, unreadable
from fpn_neck.datasets.check.outlines import wrong_outline, wrong_size
from fpn_neck.utils.text import first_few

_NUMBER, _ID = (int, float), (int, float, str)
_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": _ID, "file_name": str, "height": _NUMBER, "width": _NUMBER},
    "annotations": {
        **{"id": _ID, "image_id": _ID, "category_id": _ID},
        **{"bbox": object, "area": object},  # checked one by one
    },
    "categories": {"id": _ID, "name": str},
}


class Boxes(NamedTuple):
    """The findings in an annotation file, and how many boxes of it mmdet trains on.

    Attributes:
        boxes, photos: per class, int64 (K,): its boxes, and the photos with at least one.
        left_out: by category that is not a class: its boxes.
        ignored: by reason, such as 'with iscrowd set': the boxes of the classes left out for it.
    """

    findings: list[Finding]
    boxes: np.ndarray
    photos: np.ndarray
    left_out: dict[str, int]
    ignored: dict[str, int]


def read_coco(path: Path, *, panoptic: bool = False) -> dict[str, Any]:
    """The annotation file's content; every entry has the keys that mmdet reads.

    Args:
        panoptic: the file is a panoptic one; its segments become the annotations.

    Raises:
        InvalidFile: UNREADABLE, BOM, or NOT_COCO.
    """
    try:
        content = _parse(path)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise InvalidFile(
            kinds.NOT_COCO, f"a {type(content).__name__}, not images, annotations, categories"
        )
    content.setdefault("annotations", [])  # files for testing have none
    if panoptic:
        content["annotations"] = _segments(content["annotations"])
    for name, keys in _KEYS.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            raise InvalidFile(kinds.NOT_COCO, f"no list {name!r}")
        for i, entry in enumerate(entries):
            known = entry if isinstance(entry, dict) else {}
            lacking = [k for k, t in keys.items() if k not in known or not _is_a(known[k], t)]
            if lacking:
                raise InvalidFile(kinds.NOT_COCO, f"{name}[{i}] has no valid {', '.join(lacking)}")
    return content


def _is_a(value: Any, kind: Any) -> bool:
    """`isinstance`, except that true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _parse(path: Path) -> Any:
    # Half the time would be spent on collecting garbage among millions of objects that stay.
    collects = gc.isenabled()
    gc.disable()
    try:
        with path.open() as file:  # as pycocotools does
            text = file.read()
        if text.startswith("\ufeff"):
            raise InvalidFile(kinds.BOM, "begins with U+FEFF")
        return json.loads(text)
    finally:
        if collects:
            gc.enable()


def _segments(annotations: Any) -> Any:
    """The segments of a panoptic file as mmdet lists them: each an annotation of its photo."""
    if not isinstance(annotations, list):
        return annotations
    segments = []
    for i, one in enumerate(annotations):
        if not isinstance(one, dict) or not isinstance(one.get("segments_info"), list):
            raise InvalidFile(kinds.NOT_COCO, f"annotations[{i}] has no valid segments_info")
        photo = {"image_id": one.get("image_id")}
        segments += [s | photo if isinstance(s, dict) else s for s in one["segments_info"]]
    return segments


def check_categories(
    file: str, content: Mapping[str, Any], classes: Sequence[str]
) -> list[Finding]:
    """Check that ``classes`` are among the categories, in the file's order."""
    names = [category["name"] for category in content["categories"]]
    missing = [name for name in classes if name not in names]
    if missing:
        value = f"classes {_quoted(missing)} not among the {len(names)} categories"
        close = get_close_matches(str(missing[0]), names, n=1)
        return [Finding(kinds.CATEGORIES, file, value + (f"; {close[0]!r} is" if close else ""))]
    twice = [name for name, n in Counter(classes).items() if n > 1]
    if twice:
        return [Finding(kinds.CATEGORIES, file, f"classes {_quoted(twice)} twice")]
    taken = [name for name in names if name in classes]
    if taken == list(classes):
        return []
    wrong = next(i for i, name in enumerate(taken) if i >= len(classes) or classes[i] != name)
    expected = classes[wrong] if wrong < len(classes) else "nothing"
    value = f"label {wrong} becomes {taken[wrong]!r}, and classes[{wrong}] is {expected!r}"
    return [Finding(kinds.CATEGORIES, file, value)]


def check_panoptic(file: str, content: Mapping[str, Any], classes: Sequence[str]) -> list[Finding]:
    """Check what mmdet wants of a panoptic file only: ``isthing``, and segments of classes only."""
    lacking = [c["name"] for c in content["categories"] if "isthing" not in c]
    names = {category["id"]: category["name"] for category in content["categories"]}
    segments = Counter(names.get(one["category_id"], "") for one in content["annotations"])
    others = [name for name in segments if name and name not in classes]
    findings = []
    if lacking:
        findings.append(Finding(kinds.NOT_COCO, file, f"categories {_quoted(lacking)}: no isthing"))
    if others:
        value = f"segments of {_quoted(others)}, and a panoptic data set takes its classes only"
        findings.append(Finding(kinds.CATEGORIES, file, value))
    return findings


def check_mask_sizes(
    file: str, content: Mapping[str, Any], classes: Sequence[str]
) -> list[Finding]:
    """Outlines given as RLE of another size than their photo: mmdet would reshape them.

    Part of a quick check: a million annotations take a second.
    """
    names = {category["id"]: category["name"] for category in content["categories"]}
    photos = {image["id"]: image for image in content["images"]}
    findings = []
    for one in content["annotations"]:
        outline, photo = one.get("segmentation"), photos.get(one["image_id"])
        if not isinstance(outline, dict) or not photo or not has_size(photo):
            continue
        wrong = wrong_size(outline, (photo["width"], photo["height"]))
        if wrong and names.get(one["category_id"]) in classes:
            where = f"annotation {one['id']!r} of {photo['file_name']}"
            findings.append(Finding(kinds.MASK_SIZE, file, f"{where}: {wrong}"))
    return findings


def check_outlines_exist(
    file: str, content: Mapping[str, Any], classes: Sequence[str]
) -> list[Finding]:
    """Objects without any outline, at which mmdet's training fails. Part of a quick check."""
    ids, photos = category_ids(content, classes), {photo["id"] for photo in content["images"]}
    read = [
        one
        for one in content["annotations"]
        if one["category_id"] in ids and one["image_id"] in photos
        if not (one.get("ignore") or is_empty(one))
    ]
    lacking = [one for one in read if not one.get("segmentation")]
    if not lacking:
        return []
    value = f"{len(lacking)} of {len(read)} annotations, as annotation {lacking[0]['id']!r}"
    return [Finding(kinds.NO_OUTLINE, file, value)]


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
        unique: no two annotations may have the same id; segments of two photos may.
        outlines: every box of a class needs a valid outline.
    """
    findings = _twice(file, content, ["images", *["annotations"] * unique, "categories"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    photos = {image["id"]: image for image in content["images"]}
    like_photo, like_name = ({str(i): i for i in known} for known in (photos, names))
    count: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    seen: set[tuple[str, Any]] = set()
    for one in content["annotations"]:
        photo, name = photos.get(one["image_id"]), names.get(one["category_id"])
        if photo is None:
            value = f"annotation {one['id']!r}: image_id {_unknown(one['image_id'], like_photo)}"
            findings.append(Finding(kinds.NO_IMAGE, file, value))
            continue
        where = f"annotation {one['id']!r} of {photo['file_name']}"
        if name is None:
            value = f"{where}: category_id {_unknown(one['category_id'], like_name)}"
            findings.append(Finding(kinds.NO_CATEGORY, file, value))
            continue
        wrong = wrong_box(one, photo)
        if not wrong and outlines and name in classes and has_size(photo):
            size = photo["width"], photo["height"]
            wrong = wrong_outline(one.get("segmentation"), size, one["bbox"])
        if wrong:
            kind, value = wrong
            findings.append(Finding(kind, file, f"{where}: {value}"))
        reason = left_out(one, photo) if name in classes else ""
        if reason:
            ignored[reason] += 1
            continue
        count[name] += 1
        seen.add((name, photo["id"]))
    in_photos = Counter(name for name, _ in seen)
    return Boxes(
        findings,
        np.array([count[name] for name in classes], np.int64),
        np.array([in_photos[name] for name in classes], np.int64),
        {name: n for name, n in count.items() if name not in classes},
        dict(ignored),
    )


def _unknown(number: Any, known: Mapping[str, Any]) -> str:
    """An unknown id, and the known one that differs from it in type only."""
    other = known.get(str(number), number)
    differ = type(other) is not type(number)
    return f"{number!r}" + (f", its file lists {other!r}: types differ" if differ else "")


def _twice(file: str, content: Mapping[str, Any], lists: Sequence[str]) -> list[Finding]:
    return [
        Finding(kinds.TWICE, file, f"{name}: id {number!r} occurs {n} times")
        for name in lists
        for number, n in Counter(entry["id"] for entry in content[name]).items()
        if n > 1
    ]


def _quoted(names: Sequence[str]) -> str:
    return first_few([repr(name) for name in names], 5)
