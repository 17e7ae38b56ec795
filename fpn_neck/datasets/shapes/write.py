"""The default data set: generated scenes, written to a folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fpn_neck.datasets.shapes.scenes import (
    CLASSES,
    PALETTE,
    VERSION,
    Instance,
    check_size,
    make_scene,
)
from fpn_neck.utils.values import check_whole

SPLITS = ("train", "val")
_Task = tuple[str, int]  # split and index of a scene
_Records = tuple[dict, list[dict]]  # COCO's, of an image and of its objects


def write_shapes(
    root: str | os.PathLike,
    *,
    train: int = 600,
    val: int = 100,
    size: tuple[int, int] = (256, 320),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[], object] | None = None,
) -> Path:
    """Write the data set to a folder, unless the folder holds the same one already.

    The layout, the same for ``train`` and ``val``::

        shapes.json                          the arguments, the classes, the number of objects
        annotations/instances_train.json     COCO, RLE masks; category ids equal the label values
        train/images/000001.jpg              file names in the COCO file are relative to this folder
        train/labels/000001.png              8-bit grey, index into CLASSES

    A picture depends on ``seed``, ``size`` and its number only, not on ``workers``, ``train`` or
    ``val``. The folder appears when it is complete, or not at all.

    Args:
        root: the folder; missing parents are made.
        train, val: number of scenes, at least 1 each.
        size: (H, W) of every picture in px.
        seed: a whole number, at least 0.
        workers: number of processes; by default one for each core, at most 8.
        progress: called after every scene.

    Returns:
        The absolute path of ``root``.

    Raises:
        ValueError: a number is too small, or ``root`` holds anything else, such as shapes of
            another seed; nothing in it is changed.
        TypeError: a number is not whole.
        ImportError: pycocotools is missing.
    """
    recipe = {
        "version": VERSION,
        "seed": check_whole("seed", seed, 0, most=sys.maxsize),
        "size": check_size(size),
        "train": check_whole("train", train, 1),
        "val": check_whole("val", val, 1),
    }
    workers = check_whole("workers", min(8, os.cpu_count() or 1) if workers is None else workers, 1)
    root = Path(root).resolve()
    if _is_written(root, recipe):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.{secrets.token_hex(4)}")
    try:
        _write(unfinished, recipe, workers, progress or (lambda: None))
        try:
            unfinished.rename(root)
        except OSError:  # another process may have been faster
            if not _is_written(root, recipe):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _is_written(root: Path, recipe: dict) -> bool:
    """True if ``root`` holds the data set, False if it is free; ValueError if it is taken."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "shapes.json").read_text())
        differing = [f"{k} {found[k]}, not {v}" for k, v in recipe.items() if found[k] != v]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"{root} holds something else than shapes and stays unchanged; name another folder"
        ) from None
    if differing:
        raise ValueError(
            f"{root} holds shapes with {', '.join(differing)}; "
            "ask for the same, name another folder or delete this one"
        )
    return True


def _write(root: Path, recipe: dict, workers: int, progress: Callable[[], object]) -> None:
    for folder in ("annotations", *(f"{s}/{k}" for s in SPLITS for k in ("images", "labels"))):
        (root / folder).mkdir(parents=True)
    tasks = [(split, index) for split in SPLITS for index in range(recipe[split])]
    coco = {split: _empty_coco(split) for split in SPLITS}
    with closing(_parallel(partial(_write_scene, root, recipe), tasks, workers)) as results:
        for (split, _), (image, annotations) in zip(tasks, results, strict=True):
            coco[split]["images"].append(image)
            for annotation in annotations:
                number = len(coco[split]["annotations"]) + 1
                coco[split]["annotations"].append({"id": number, **annotation})
            progress()
    for split, content in coco.items():
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    objects = {split: len(coco[split]["annotations"]) for split in SPLITS}
    about = {**recipe, "objects": objects, "classes": CLASSES, "palette": PALETTE}
    (root / "shapes.json").write_text(json.dumps(about, indent=1))


def _parallel(
    function: Callable[[_Task], _Records], tasks: list[_Task], workers: int
) -> Generator[_Records, None, None]:
    """The results in order. Processes are forked if that is safe, else each would import torch."""
    if workers == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with context.Pool(workers, _default_signals) as pool:
        yield from pool.imap(function, tasks, chunksize=4)


def _default_signals() -> None:
    """Leave Ctrl-C to the parent; end by SIGTERM, whatever handler the parent has for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _write_scene(root: Path, recipe: dict, task: _Task) -> _Records:
    """Write picture and labels."""
    split, index = task
    height, width = recipe["size"]
    scene = make_scene((recipe["seed"], SPLITS.index(split), index), (height, width))
    number = index + 1
    folder, name = root / split, f"{number:06d}"
    # Chroma at full resolution: at half of it the colours of an object of 8 px would blur.
    Image.fromarray(scene.image).save(folder / f"images/{name}.jpg", quality=95, subsampling=0)
    Image.fromarray(scene.labels).save(folder / f"labels/{name}.png")
    image = {"id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
    return image, [_annotation(instance, number) for instance in scene.instances]


def _annotation(instance: Instance, image_id: int) -> dict:
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(instance.mask, np.uint8))
    return {
        "image_id": image_id,
        "category_id": instance.category_id,
        "bbox": instance.bbox,
        "area": int(np.count_nonzero(instance.mask)),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "iscrowd": 0,
    }


def _empty_coco(split: str) -> dict:
    return {
        "info": {"description": f"fpn_neck shapes, {split}", "version": str(VERSION)},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES) if i],
    }
