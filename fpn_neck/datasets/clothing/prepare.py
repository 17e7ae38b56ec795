"""Clothing Co-Parsing made ready: Kaggle's layout from the authors', COCO instances from masks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fpn_neck.datasets.clothing.check import (
    SIZE,
    Finding,
    Pair,
    RefusedData,
    Source,
    attempt,
    open_source,
    read_mask,
    read_photo,
)
from fpn_neck.datasets.clothing.layout import CLASSES, split_of

# Components of fewer pixels are slivers of superpixels; the smallest rings, watches and earrings
# of the data set are larger.
TINY = 64


class Examined(NamedTuple):
    """What one pair gave: findings, or a COCO ``image`` entry and its ``annotations``."""

    findings: list[Finding]
    image: dict
    annotations: list[dict]


def examine(pair: Pair, root: Path, convert_to: Path | None = None) -> Examined:
    """Check one pair and find its instances; copy it in Kaggle's layout if ``convert_to``."""
    findings: list[Finding] = []
    size = attempt(read_photo, pair.photo, root, findings)
    mask = attempt(read_mask, pair.mask, root, findings)
    if size and mask is not None and size != mask.shape[::-1]:
        file = pair.mask.relative_to(root).as_posix()
        value = "mask {1}x{0}, photo {2}x{3} pixels".format(*mask.shape, *size)
        findings.append(Finding(SIZE, file, value))
    if findings:
        return Examined(findings, {}, [])
    name = pair.photo.relative_to(root).as_posix()
    if convert_to:
        name = _convert(pair, mask, convert_to)
    image = {"id": pair.number, "file_name": name, "width": size[0], "height": size[1]}
    return Examined([], image, [{"image_id": pair.number} | one for one in instances(mask)])


def _convert(pair: Pair, mask: np.ndarray, root: Path) -> str:
    name = f"jpeg_images/IMAGES/img_{pair.number:04d}.jpeg"
    shutil.copyfile(pair.photo, root / name)
    Image.fromarray(mask).save(root / f"png_masks/MASKS/seg_{pair.number:04d}.png")
    return name


def instances(mask: np.ndarray) -> list[dict]:
    """COCO instances of a mask: the connected components (8 neighbours) of each label but null.

    Two shoes apart are two instances, as they should be; but shoes that touch are one, and a
    dress cut in two by an arm is two, for the masks do not tell. A component of fewer than
    ``TINY`` pixels gets ``iscrowd=1``: something is there, so it is not background, but it is no
    object to learn. COCO's metrics then neither ask for it nor punish finding it; mmdet sets such
    boxes apart as ``ignored_instances`` (which its assigners heed if ``ignore_iof_thr`` > 0).

    Args:
        mask: label indices (H, W), uint8.

    Returns:
        One dict an instance, with ``category_id``, ``bbox`` (x, y, width, height in pixels),
        ``area`` in pixels, ``iscrowd`` and ``segmentation`` (compressed RLE).
    """
    # Here, not above: split and labels need neither.
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
    photos: dict[str, int]  # by split
    instances: int
    tiny: int
    unlabelled: int  # photos without a mask, left out
    empty: list[str]  # photos whose mask is null everywhere, taken as they are
    out: Path


def prepare(
    source: Path,
    out: Path | None = None,
    *,
    workers: int = 1,
    track: Callable[[Iterable[Examined], int], Iterable[Examined]] = lambda results, total: results,
) -> Summary:
    """Check ``source`` and write ``annotations/instances_{train,val}.json`` under ``out``.

    The authors' repository is converted to Kaggle's layout under ``out`` as well: JPEG bytes as
    they are, masks lossless. A Kaggle folder is only read; its ``out`` is itself unless given.
    File names in the json are relative to the folder in Kaggle's layout.

    Args:
        workers: processes.
        track: given the results and their number, hands them on; for a progress bar.

    Raises:
        RefusedData: something in the data would poison training; nothing was written.
        ValueError: ``source`` or ``out`` will not do.
    """
    found = open_source(source.resolve())
    out = _target(found, out)
    existing = next(path for path in (out, *out.parents) if path.exists())
    with tempfile.TemporaryDirectory(dir=existing, prefix=".prepare-clothing-") as folder:
        staging = Path(folder)
        if found.original:
            _make_layout(staging)
        job = partial(examine, root=found.root, convert_to=staging if found.original else None)
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(job, found.pairs, chunksize=4)
            examined = list(track(results, len(found.pairs)))
        findings = found.findings + [finding for one in examined for finding in one.findings]
        if findings:
            raise RefusedData(findings)
        _write_coco(examined, staging)
        _publish(staging, out)
    every = [annotation for one in examined for annotation in one.annotations]
    splits = [split_of(one.image["id"]) for one in examined]
    return Summary(
        photos={split: splits.count(split) for split in ("train", "val")},
        instances=len(every),
        tiny=sum(annotation["iscrowd"] for annotation in every),
        unlabelled=found.unlabelled,
        empty=[one.image["file_name"] for one in examined if not one.annotations],
        out=out,
    )


def _target(found: Source, out: Path | None) -> Path:
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
    (root / "png_masks" / "MASKS").mkdir(parents=True)
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("i", "label_list"), *enumerate(CLASSES)])


def _write_coco(examined: list[Examined], root: Path) -> None:
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        chosen = [one for one in examined if split_of(one.image["id"]) == split]
        annotations = [annotation for one in chosen for annotation in one.annotations]
        coco = {
            "info": {"description": f"Clothing Co-Parsing, {split}: components of each label"},
            "images": [one.image for one in chosen],
            # From 1: pycocotools takes the id 0 for "not matched".
            "annotations": [{"id": i} | one for i, one in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES) if i],
        }
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(coco, separators=(",", ":")), encoding="utf-8")


def _publish(staging: Path, out: Path) -> None:
    """Move what is finished; the json comes last, as the sign that all of it is there."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for name in ("jpeg_images", "png_masks", "labels.csv"):
        if (staging / name).exists():
            os.replace(staging / name, out / name)
    for file in (staging / "annotations").iterdir():
        os.replace(file, out / "annotations" / file.name)
