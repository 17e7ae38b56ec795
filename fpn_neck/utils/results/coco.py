"""COCO's formats: results of boxes, masks and segments, run-length encoded masks, ids of a file.

Sources: cocodataset.org, "Results Format" and "Panoptic Segmentation"; masks are encoded by
pycocotools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fpn_neck.utils.results.arrays import Arrays
from fpn_neck.utils.results.options import BACKGROUND, NO_CATEGORY


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Masks, bool (n, H, W) -> COCO's run lengths, ``{"size": [H, W], "counts": text}``.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools.mask import encode as encode_one
    except ImportError as e:
        raise ImportError("masks in files need pycocotools: pip install pycocotools") from e
    found = (encode_one(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks)
    return [{"size": list(one["size"]), "counts": one["counts"].decode("ascii")} for one in found]


def results(
    result: Arrays, image_id: int, category_ids: Mapping[str, int] | None
) -> list[dict[str, Any]]:
    """See `fpn_neck.utils.results.result.Result.to_coco`."""
    ids = category_ids_of(result.classes, category_ids)
    if result.segments is not None:
        return [_panoptic(result, image_id, ids)]
    if result.labels is not None:
        names = result.areas.keys() - {*NO_CATEGORY}
        labels = [i for i, name in enumerate(result.classes) if name in names]
        masks = (result.labels == i for i in labels)
        rle = [encode(mask[None])[0] for mask in masks]
        return [
            {"image_id": image_id, "category_id": ids[i], "segmentation": one}
            for i, one in zip(labels, rle, strict=True)
        ]
    return _objects(result, image_id, ids)


def category_ids_of(classes: Sequence[str], known: Mapping[str, int] | None) -> list[int]:
    """The id of every class: that of a COCO file, or index + 1; 0 for torchvision's background.

    Raises:
        ValueError: the file lacks a class; names it.
    """
    first = 0 if BACKGROUND in classes[:1] else 1
    if known is None:
        return list(range(first, len(classes) + first))
    known = dict.fromkeys(NO_CATEGORY, 0) | dict(known)
    missing = [name for name in classes if name not in known]
    if missing:
        raise ValueError(
            f"the COCO file has no category {missing[0]!r}, and the model has; its categories are "
            f"{', '.join(name for name in known if name not in NO_CATEGORY)}; leave the file out"
        )
    return [known[name] for name in classes]


def _objects(result: Arrays, image_id: int, ids: Sequence[int]) -> list[dict[str, Any]]:
    assert result.boxes is not None and result.scores is not None and result.class_ids is not None
    rle = encode(result.masks) if result.masks is not None else None
    found = []
    for i, (x1, y1, x2, y2) in enumerate(result.boxes.tolist()):
        one = {
            "image_id": image_id,
            "category_id": ids[result.class_ids[i]],
            "bbox": [round(x, 2) for x in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(result.scores[i]), 5),
        }
        found.append(one | ({"segmentation": rle[i]} if rle else {}))
    return found


def _panoptic(result: Arrays, image_id: int, ids: Sequence[int]) -> dict[str, Any]:
    name = f"{Path(result.photo).stem if result.photo else 'photo'}.png"
    segments = [
        {"id": one.number, "category_id": ids[one.class_id], "area": one.area, "iscrowd": 0}
        for one in result.segments or ()
    ]
    return {"image_id": image_id, "file_name": name, "segments_info": segments}


def segment_picture(segment_map: np.ndarray) -> Image.Image:
    """A panoptic PNG: the number of a pixel's segment is R + 256 G + 65536 B."""
    parts = [segment_map >> 8 * i & 255 for i in range(3)]
    return Image.fromarray(np.stack(parts, -1).astype(np.uint8))


class CocoIds:
    """The ids of photos and categories, which results refer to.

    Args:
        file: a COCO file whose ids are taken; None: 1, 2, ... The path of a photo ends with its
            ``file_name`` in the file. If no ``file_name`` fits, its name must be there once.
        classes: names of the model's classes.

    Raises:
        ValueError: the file is not a COCO file, or lacks a class.
    """

    def __init__(self, file: Path | None, classes: Sequence[str]) -> None:
        self._file, self._known = file, None if file is None else _read(file)
        self.categories = self._known["categories"] if self._known else None
        ids = category_ids_of(classes, self.categories)
        listed = zip(ids, classes, strict=True)
        self._listed = [{"id": i, "name": name} for i, name in listed if name not in NO_CATEGORY]
        self._photos: list[dict[str, Any]] = []
        self._taken: dict[int, str] = {}  # id -> photo
        self._by_name: dict[str, list[int]] = {}
        for file_name, number in (self._known["images"] if self._known else {}).items():
            self._by_name.setdefault(file_name.rpartition("/")[2], []).append(number)

    def image_id(self, result: Arrays) -> int:
        """The id of a result's photo, which is listed from now on.

        Raises:
            ValueError: the COCO file has no such photo, or several, or it is taken.
        """
        photo = result.photo or "photo"
        found = self._id_in_file(Path(photo)) if self._known else len(self._photos) + 1
        if found in self._taken:
            raise ValueError(f"{self._taken[found]} has this photo's id, {found}, in {self._file}")
        self._taken[found] = photo
        height, width = result.size
        self._photos.append({"id": found, "file_name": photo, "width": width, "height": height})
        return found

    def _id_in_file(self, photo: Path) -> int:
        assert self._known is not None
        parts = photo.absolute().parts[1:]
        for start in range(len(parts)):  # the longest end first
            end = "/".join(parts[start:])
            if end in self._known["images"]:
                return self._known["images"][end]
        ids = self._by_name.get(photo.name, [])
        if len(ids) != 1:
            raise ValueError(f"{self._file} has {len(ids) or 'no'} photos of the name {photo.name}")
        return ids[0]

    def as_dataset(self) -> dict[str, Any]:
        """A COCO file of the photos and categories, without annotations."""
        return {"images": self._photos, "categories": self._listed, "annotations": []}


def _read(file: Path) -> dict[str, dict[str, int]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {_end_of(one["file_name"]): int(one["id"]) for one in content["images"]}
        categories = {str(one["name"]): int(one["id"]) for one in content["categories"]}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{file} is not a COCO file with images and categories ({e!r})") from e
    return {"images": images, "categories": categories}


def _end_of(file_name: str) -> str:
    """What the path of a photo ends with: without a host, a root and steps upwards."""
    return re.sub(r"^(\w+://[^/]*)?(\.{0,2}/)*", "", file_name.replace("\\", "/"))
