"""COCO's formats: results of boxes, masks and segments, run-length encoded masks, ids of a file.

Sources: cocodataset.org, "Results Format" and "Panoptic Segmentation"; masks are encoded by
pycocotools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fpn_neck.utils.results.arrays import Arrays


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
        labels = [i for i in range(len(ids)) if result.classes[i] in result.areas]
        masks = (result.labels == i for i in labels)
        rle = [encode(mask[None])[0] for mask in masks]
        return [
            {"image_id": image_id, "category_id": ids[i], "segmentation": one}
            for i, one in zip(labels, rle, strict=True)
        ]
    return _objects(result, image_id, ids)


def category_ids_of(classes: Sequence[str], known: Mapping[str, int] | None) -> list[int]:
    """The id of every class: that of a COCO file, or index + 1.

    Raises:
        ValueError: the file lacks a class; names it.
    """
    if known is None:
        return list(range(1, len(classes) + 1))
    missing = [name for name in classes if name not in known]
    if missing:
        raise ValueError(
            f"the COCO file has no category {missing[0]!r}, and the model has; its categories are "
            f"{', '.join(known)}"
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
        file: a COCO file whose ids are taken, photos by their file name; None: 1, 2, ...
        classes: names of the model's classes.

    Raises:
        ValueError: the file is not a COCO file, or lacks a class.
    """

    def __init__(self, file: Path | None, classes: Sequence[str]) -> None:
        self._file, self._known = file, None if file is None else _read(file)
        self.categories = self._known["categories"] if self._known else None
        ids = category_ids_of(classes, self.categories)
        self._listed = [{"id": i, "name": name} for i, name in zip(ids, classes, strict=True)]
        self._photos: list[dict[str, Any]] = []

    def image_id(self, result: Arrays) -> int:
        """The id of a result's photo, which is listed from now on.

        Raises:
            ValueError: the COCO file has no such photo.
        """
        name = Path(result.photo or "photo").name
        found = len(self._photos) + 1
        if self._known:
            if name not in self._known["images"]:
                raise ValueError(f"{self._file} has no photo of the name {name}")
            found = self._known["images"][name]
        height, width = result.size
        self._photos.append(
            {"id": found, "file_name": result.photo or name, "width": width, "height": height}
        )
        return found

    def as_dataset(self) -> dict[str, Any]:
        """A COCO file of the photos and categories, without annotations."""
        return {"images": self._photos, "categories": self._listed, "annotations": []}


def _read(file: Path) -> dict[str, dict[str, int]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {Path(one["file_name"]).name: int(one["id"]) for one in content["images"]}
        categories = {str(one["name"]): int(one["id"]) for one in content["categories"]}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{file} is not a COCO file with images and categories ({e!r})") from e
    return {"images": images, "categories": categories}
