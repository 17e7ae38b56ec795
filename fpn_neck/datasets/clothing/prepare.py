"""Clothing Co-Parsing made ready: Kaggle's layout from the authors', COCO instances from masks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fpn_neck.datasets.check.findings import Finding, RefusedData
from fpn_neck.datasets.check.masks import Pair, check_pair
from fpn_neck.datasets.clothing.check import (
    SourceFolder,
    as_found_in,
    number_of,
    open_source,
    read_mask,
    unrotated_size,
)
from fpn_neck.datasets.clothing.layout import CLASSES, MASKS, TINY, split_of
from fpn_neck.utils.progress import Track


class PreparedPhoto(NamedTuple):
    """The findings of a photo and its mask, or a COCO ``image`` entry and its ``annotations``."""

    findings: list[Finding]
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def prepare_photo(pair: Pair, root: Path, convert_to: Path | None = None) -> PreparedPhoto:
    """Check one pair and find its instances; copy it in Kaggle's layout if ``convert_to``."""
    findings, mask = check_pair(pair, unrotated_size, read_mask)
    if findings or mask is None:
        return PreparedPhoto([as_found_in(root, finding) for finding in findings], {}, [])
    number, name = number_of(pair.photo), pair.photo.relative_to(root).as_posix()
    if convert_to:
        name = _convert(pair.photo, mask, convert_to)
    image = {"id": number, "file_name": name, "width": mask.width, "height": mask.height}
    annotations = [{"image_id": number} | one for one in instances(np.asarray(mask))]
    return PreparedPhoto([], image, annotations)


def _convert(photo: Path, mask: Image.Image, root: Path) -> str:
    number = number_of(photo)
    name = f"jpeg_images/IMAGES/img_{number:04d}.jpeg"
    shutil.copyfile(photo, root / name)
    mask.save(root / MASKS / f"seg_{number:04d}.png")
    return name


def instances(mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO instances of a mask: the connected components (8 neighbours) of each label but null.

    Masks do not tell objects apart: two shoes that touch are one instance, and a dress that an arm
    cuts in two is two. A component of fewer than ``TINY`` pixels gets ``iscrowd=1``: it is not
    background, but too small to learn. COCO's metrics then neither require it nor count it as a
    false positive. mmdet keeps such boxes as ``ignored_instances`` (its assigners use them if
    ``ignore_iof_thr`` > 0).

    Args:
        mask: label indices (H, W), uint8.

    Returns:
        A dict for each instance, with ``category_id``, ``bbox`` (x, y, width, height in pixels),
        ``area`` in pixels, ``iscrowd`` and ``segmentation`` (compressed RLE).
    """
    # Imported here, since the labels and the split need neither package.
    from pycocotools.mask import encode
    from scipy.ndimage import find_objects, label

    found = []
    for category in np.unique(mask[mask > 0]).tolist():
        components, _ = label(mask == category, structure=np.ones((3, 3)))
        for i, (rows, columns) in enumerate(find_objects(components), start=1):
            inside = np.asfortranarray(components == i, dtype=np.uint8)  # (H, W)
            rle, area = encode(inside), int(inside.sum())
            found.append(
                {
                    "category_id": category,
                    "bbox": [
                        columns.start,
                        rows.start,
                        columns.stop - columns.start,
                        rows.stop - rows.start,
                    ],
                    "area": area,
                    "iscrowd": int(area < TINY),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return found


class Summary(NamedTuple):
    """What was prepared.

    Attributes:
        photos: number of photos by split.
        unlabelled: number of photos left out, since they have no mask.
        empty: names of the photos whose mask is null everywhere; they are not left out.
    """

    photos: dict[str, int]
    instances: int
    tiny: int
    unlabelled: int
    empty: list[str]
    out: Path


def prepare(
    source: Path,
    out: Path | None = None,
    *,
    workers: int = 1,
    track: Track[PreparedPhoto] = lambda results, total: results,
) -> Summary:
    """Check ``source`` and write ``annotations/instances_{train,val}.json`` under ``out``.

    The authors' repository is also converted to Kaggle's layout under ``out``: JPEG bytes as they
    are, masks lossless. A folder in Kaggle's layout is only read; ``out`` is by default the folder
    itself. File names in the json are relative to the folder in Kaggle's layout.

    Args:
        workers: number of processes.
        track: wraps the results, for a progress bar.

    Raises:
        RefusedData: something in the data would spoil training; nothing was written.
        ValueError: ``source`` has no known layout, or ``out`` is missing or taken.
    """
    found = open_source(source.resolve())
    out = _target(found, out)
    existing = next(path for path in (out, *out.parents) if path.exists())
    with tempfile.TemporaryDirectory(dir=existing, prefix=".prepare-clothing-") as folder:
        staging = Path(folder)
        if found.original:
            _make_layout(staging)
        convert_to = staging if found.original else None
        job = partial(prepare_photo, root=found.root, convert_to=convert_to)
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(job, found.pairs, chunksize=4)
            prepared = list(track(results, len(found.pairs)))
        findings = [as_found_in(found.root, finding) for finding in found.findings]
        findings += [finding for one in prepared for finding in one.findings]
        if findings:
            raise RefusedData(findings)
        _write_coco(prepared, staging)
        _publish(staging, out)
    every = [annotation for one in prepared for annotation in one.annotations]
    splits = [split_of(one.image["id"]) for one in prepared]
    return Summary(
        photos={split: splits.count(split) for split in ("train", "val")},
        instances=len(every),
        tiny=sum(annotation["iscrowd"] for annotation in every),
        unlabelled=found.unlabelled,
        empty=[one.image["file_name"] for one in prepared if not one.annotations],
        out=out,
    )


def _target(found: SourceFolder, out: Path | None) -> Path:
    if not found.original:
        return (out or found.root).resolve()
    if out is None or out.resolve() == found.root:
        raise ValueError(f"{found.root} has to be converted: give another folder with --out")
    out = out.resolve()
    for name in ("jpeg_images", "png_masks", "labels.csv"):
        if (out / name).exists():
            raise ValueError(f"{out / name} exists: remove it, or give another folder with --out")
    return out


def _make_layout(root: Path) -> None:
    (root / "jpeg_images" / "IMAGES").mkdir(parents=True)
    (root / MASKS).mkdir(parents=True)
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("i", "label_list"), *enumerate(CLASSES)])


def _write_coco(prepared: list[PreparedPhoto], root: Path) -> None:
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        chosen = [one for one in prepared if split_of(one.image["id"]) == split]
        annotations = [annotation for one in chosen for annotation in one.annotations]
        coco = {
            "info": {"description": f"Clothing Co-Parsing, {split}: components of each label"},
            "images": [one.image for one in chosen],
            # From 1, since pycocotools takes the id 0 for "not matched".
            "annotations": [{"id": i} | one for i, one in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES) if i],
        }
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(coco, separators=(",", ":")), encoding="utf-8")


def _publish(staging: Path, out: Path) -> None:
    """Move the finished files; the json files last, since they show that the rest is there."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for name in ("jpeg_images", "png_masks", "labels.csv"):
        if (staging / name).exists():
            os.replace(staging / name, out / name)
    for file in (staging / "annotations").iterdir():
        os.replace(file, out / "annotations" / file.name)
