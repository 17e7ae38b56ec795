"""A user's COCO file as two files, for training and validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpn_neck.datasets.check.coco import read_coco
from fpn_neck.datasets.check.findings import InvalidFile
from fpn_neck.datasets.own.pairs import of_split
from fpn_neck.utils.files import write_text
from fpn_neck.utils.text import first_few

SPLITS = ("train", "val")


def read_annotations(path: Path, photos: Path) -> dict[str, Any]:
    """The content of a COCO file whose photos are in a folder.

    Raises:
        ValueError: it is not a COCO file, it names fewer than two photos, no class or a photo that
            is not there.
    """
    try:
        content = read_coco(path)
    except InvalidFile as e:
        raise ValueError(f"{path}: {e.value}: {e.kind.rule}; remedy: {e.kind.remedy}") from e
    if len(content["images"]) < 2 or not content["categories"]:
        raise ValueError(
            f"{path}: {len(content['images'])} photos, {len(content['categories'])} categories; "
            "training and validation need a photo each, and a category"
        )
    lost = [i["file_name"] for i in content["images"] if not (photos / i["file_name"]).is_file()]
    if lost:
        raise ValueError(
            f"{path} names {len(lost)} photos that are not in {photos}: {first_few(lost)}; "
            "correct --photos or file_name"
        )
    return content


def class_names(content: Mapping[str, Any]) -> list[str]:
    """The names of the categories in the file's order: mmdet numbers labels in this order."""
    return [category["name"] for category in content["categories"]]


def write_splits(content: Mapping[str, Any], stem: Path) -> dict[str, Path]:
    """Write ``STEM_train.json`` and ``STEM_val.json``; the files by split."""
    names = [image["file_name"] for image in content["images"]]
    files = {}
    for split in SPLITS:
        chosen = set(of_split(names, split))
        images = [i for i in content["images"] if i["file_name"] in chosen]
        ids = {image["id"] for image in images}
        annotations = [a for a in content["annotations"] if a["image_id"] in ids]
        text = json.dumps({**content, "images": images, "annotations": annotations})
        files[split] = stem.with_name(f"{stem.name}_{split}.json").absolute()
        write_text(files[split], text)
    return files
