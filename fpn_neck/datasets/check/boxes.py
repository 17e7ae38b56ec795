"""Which photos and boxes of a COCO file mmdet's ``CocoDataset`` trains on, by mmdet's own rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.kinds import Kind

_TOLERANCE = 1.0  # px that a box may extend beyond the photo
T = TypeVar("T")
Entry = Mapping[str, Any]  # of one of the lists in the file
Ignored = Callable[[Any], bool]


def never(outline: Any) -> bool:
    """No box is ignored for its outline: training reads none."""
    return False


def category_ids(content: Entry, classes: Collection[str]) -> set[Any]:
    """The ids of the categories that are among the classes."""
    return {category["id"] for category in content["categories"] if category["name"] in classes}


def photos_left(
    dataset: Any, content: Entry, indices: int | Sequence[int] | None
) -> Sequence[Entry]:
    """The photos that mmdet takes from the file.

    Args:
        dataset: mmdet's object, whose ``filter_cfg`` and ``test_mode`` count.
        indices: the data set's setting of that name.

    Raises:
        IndexError: see `take`.
    """
    photos = list(content["images"])
    filters = {} if dataset.test_mode else dataset.filter_cfg or {}
    if filters.get("filter_empty_gt"):
        with_box = _photos_with_boxes(dataset, content)
        photos = [photo for photo in photos if photo["id"] in with_box]
    least = filters.get("min_size", 0)
    photos = [photo for photo in photos if min(photo["width"], photo["height"]) >= least]
    return take(photos, indices)


def take(items: Sequence[T], indices: int | Sequence[int] | None) -> Sequence[T]:
    """Those that a data set with these ``indices`` has.

    Raises:
        IndexError: there are fewer items than one of the indices.
    """
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[i] for i in indices]


def _photos_with_boxes(dataset: Any, content: Entry) -> set[Any]:
    """mmdet asks for any annotation of a class, a panoptic data set for one of a thing."""
    annotations = content["annotations"]
    if dataset.ANN_ID_UNIQUE:
        ids = category_ids(content, dataset.metainfo["classes"])
    else:
        ids = {category["id"] for category in content["categories"] if category.get("isthing")}
        annotations = [one for one in annotations if not one.get("iscrowd") and not is_empty(one)]
    return {one["image_id"] for one in annotations if one["category_id"] in ids}


def trained_boxes(
    content: Entry, classes: Collection[str], photos: Sequence[Entry], ignored: Ignored = never
) -> Iterator:
    """The annotations of these photos that mmdet trains on.

    Args:
        ignored: see `left_out`.
    """
    ids, sizes = category_ids(content, classes), {photo["id"]: photo for photo in photos}
    for one in content["annotations"]:
        photo = sizes.get(one["image_id"])
        if photo is not None and one["category_id"] in ids and not left_out(one, photo, ignored):
            yield one


def count_left_out(
    content: Entry, classes: Collection[str], photos: Sequence[Entry], ignored: Ignored = never
) -> str:
    """How many annotations mmdet leaves out for each reason, in words."""
    ids, sizes = category_ids(content, classes), {photo["id"]: photo for photo in photos}
    reasons: Counter[str] = Counter()
    for one in content["annotations"]:
        if one["image_id"] not in sizes:
            reasons["of no photo that is left"] += 1
        elif one["category_id"] not in ids:
            reasons[f"of none of the {len(classes)} classes"] += 1
        else:
            reasons[left_out(one, sizes[one["image_id"]], ignored)] += 1
    return ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())


def left_out(annotation: Entry, photo: Entry, ignored: Ignored = never) -> str:
    """Why mmdet doesn't train on a box of one of its classes; '' if mmdet does.

    Args:
        ignored: whether it ignores a box for its ``segmentation``, if it reads outlines.
    """
    if annotation.get("ignore"):
        return "with ignore set"
    if not is_box(annotation):
        return "of another form"
    if is_empty(annotation):
        return "below 1 px or without area"
    x, y, width, height = annotation["bbox"]
    inside = (
        min(x + width, photo["width"]) > max(x, 0),
        min(y + height, photo["height"]) > max(y, 0),
    )
    if not all(inside):
        return "outside of the photo"
    if annotation.get("iscrowd"):
        return "with iscrowd set"
    return "without a valid outline" if ignored(annotation.get("segmentation")) else ""


def is_box(annotation: Entry) -> bool:
    """Whether ``bbox`` is four finite numbers and ``area`` is one."""
    box = annotation["bbox"]
    return (
        isinstance(box, list) and len(box) == 4 and all(map(_is_finite, (*box, annotation["area"])))
    )


def is_empty(annotation: Entry) -> bool:
    """Whether mmdet skips the box for its size."""
    return is_box(annotation) and (min(annotation["bbox"][2:]) < 1 or annotation["area"] <= 0)


def has_size(photo: Entry) -> bool:
    """Whether width and height are numbers above 0; if not, comparing with the photo finds it."""
    return all(_is_finite(photo[name]) and photo[name] > 0 for name in ("width", "height"))


def wrong_box(annotation: Entry, photo: Entry) -> tuple[Kind, str] | None:
    """(kind, value) of what is wrong with a box; None if nothing is."""
    size = photo["width"], photo["height"]
    shown = f"bbox {annotation['bbox']}, area {annotation['area']}, photo {size[0]}x{size[1]} px"
    if not is_box(annotation):
        return kinds.NOT_COCO, f"{shown}: expected four numbers in bbox, a number in area"
    if is_empty(annotation):
        return kinds.EMPTY_BOX, shown
    if not has_size(photo):
        return None
    x, y, width, height = annotation["bbox"]
    right, bottom = x + width - size[0], y + height - size[1]
    if min(x, y) < -_TOLERANCE or max(right, bottom) > _TOLERANCE:
        return kinds.OUTSIDE, shown
    return None


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and -math.inf < number < math.inf
