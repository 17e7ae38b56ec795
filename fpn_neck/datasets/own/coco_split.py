"""A user's COCO file as two files, for training and validation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpn_neck.datasets.check.boxes import is_box
from fpn_neck.datasets.check.coco import read_coco
from fpn_neck.datasets.check.findings import InvalidFile
from fpn_neck.datasets.own.pairs import of_split
from fpn_neck.utils.files import write_text
from fpn_neck.utils.text import first_few

SPLITS = ("train", "val")


def read_annotations(path: Path, photos: Path) -> dict[str, Any]:
    """The content of a COCO file whose photos are in a folder.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is not a COCO file, it names fewer than two photos, no class, no object, a
            photo that is not there, or an object has no box.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations={str(path)!r}: no such file")
    if not photos.is_dir():
        raise FileNotFoundError(f"photos={str(photos)!r}: no such folder")
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
    if not content["annotations"]:
        raise ValueError(f"{path} holds no objects; export it again, with its annotations")
    wrong = [one["id"] for one in content["annotations"] if not is_box(one)]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} annotations have no bbox of four numbers, or no number as area: "
            f"id {first_few(wrong)}; draw them again, or remove them"
        )
    return content


def class_names(content: Mapping[str, Any]) -> list[str]:
    """The names of the categories in the file's order: mmdet numbers labels in this order.

    Raises:
        ValueError: two have one name.
    """
    names = [category["name"] for category in content["categories"]]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"several categories have the name {twice[0]!r}; rename or join them")
    return names


def write_splits(content: Mapping[str, Any], stem: Path) -> dict[str, Path]:
    """Write ``STEM_train.json`` and ``STEM_val.json``; the files by split.

    Objects get new ids, from 1 on: pycocotools takes 0, where Label Studio begins, for none.
    """
    names = [image["file_name"] for image in content["images"]]
    files = {}
    for split in SPLITS:
        chosen = set(of_split(names, split))
        images = [i for i in content["images"] if i["file_name"] in chosen]
        ids = {image["id"] for image in images}
        found = [a for a in content["annotations"] if a["image_id"] in ids]
        annotations = [{**a, "id": number} for number, a in enumerate(found, 1)]
        text = json.dumps({**content, "images": images, "annotations": annotations})
        files[split] = stem.with_name(f"{stem.name}_{split}.json").absolute()
        write_text(files[split], text)
    return files
