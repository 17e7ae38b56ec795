"""What files a data set of mmseg or mmdet has and how it reads them, as its own class says.

Nothing here imports a framework: the classes are told apart by what they offer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fpn_neck.datasets.check.findings import BOM, NO_PHOTO, Finding, Refused, unreadable
from fpn_neck.datasets.check.heads import heads
from fpn_neck.datasets.check.masks import CAPITALS, LISTED_TWICE, SUFFIXED, Pair, Reading


class Source(NamedTuple):
    """A data set that a config names.

    Attributes:
        name: its splits.
        dataset: mmseg's or mmdet's object, built with ``lazy_init``; the error of building it; or
            its type, where it isn't one that reads photos from files.
        loader: the settings of its pipeline's ``LoadAnnotations``; None if it has none.
        opencv: whether that reads masks with OpenCV, not pillow.
    """

    name: str
    dataset: Any
    loader: Mapping[str, Any] | None
    opencv: bool


def kind_of(dataset: Any) -> str:
    """'masks' for a ``BaseSegDataset``, 'coco' for a ``CocoDataset``, '' for what isn't known."""
    if (getattr(dataset, "backend_args", None) or {}).get("backend", "local") != "local":
        return ""  # files elsewhere
    if hasattr(dataset, "COCOAPI"):
        return "coco" if _lists_as(dataset, "CocoDataset") else ""
    return "masks" if hasattr(dataset, "label_map") else ""


def is_panoptic(dataset: Any) -> bool:
    """Of a ``CocoDataset``: whether it reads a file of segments, not of objects."""
    return not dataset.ANN_ID_UNIQUE


def _lists_as(dataset: Any, name: str) -> bool:
    """Whether the class of this name, and none that is derived from it, lists the files."""
    owner = next(c for c in type(dataset).__mro__ if "load_data_list" in vars(c))
    return owner.__name__ == name


def reading_of(source: Source, model: Mapping[str, Any]) -> Reading | None:
    """How its masks become labels; None if it reads none, or K isn't known."""
    dataset, loader = source.dataset, source.loader
    coco = kind_of(dataset) == "coco"
    if loader is None or (coco and not loader.get("with_seg")):
        return None
    k, ignore_index = _semantic(model) if coco else _segmenter(dataset, model)
    reduced = loader.get("reduce_zero_label")
    if reduced is None:
        reduced = getattr(dataset, "reduce_zero_label", False)
    return k and Reading(
        k, ignore_index, reduced, None if coco else dataset.label_map, source.opencv
    )


def _segmenter(dataset: Any, model: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(K, ignored label): the data's K, else that of the first head."""
    first = next((head for _, head in heads(model) if "num_classes" in head), {})
    classes = dataset.metainfo.get("classes")
    known = classes and not isinstance(classes, str)
    return len(classes) if known else first.get("num_classes"), first.get("ignore_index", 255)


def _semantic(model: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Of a detector's head for label maps: its K counts things and stuff."""
    head = next((head for path, head in heads(model) if path.endswith("semantic_head")), {})
    k = head.get("num_classes")
    if "num_stuff_classes" in head:
        k = head.get("num_things_classes", 0) + head["num_stuff_classes"]
    return k, head.get("loss_seg", {}).get("ignore_index", 255)


def mask_pairs(dataset: Any, reads_masks: bool) -> list[Pair]:
    """Photos and masks of a ``BaseSegDataset``; raises whatever its class does."""
    return [_pair(info, reads_masks) for info in dataset.load_data_list()]


def has_names(dataset: Any) -> bool:
    """True, unless every name of a ``BaseSegDataset``'s split file would be nonsense.

    Raises:
        Refused: UNREADABLE, BOM, or SUFFIXED.
    """
    path = Path(dataset.ann_file)
    if not path.is_file() or not _lists_as(dataset, "BaseSegDataset"):
        return True
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if text.startswith("\ufeff"):
        raise Refused(BOM, "begins with U+FEFF")
    folder, suffix = dataset.data_prefix.get("img_path") or "", dataset.img_suffix
    for name in map(str.strip, text.split("\n")):
        file = os.path.join(folder, name)
        if not os.path.isfile(file + suffix) and os.path.isfile(file):
            raise Refused(SUFFIXED, f"{name!r} is there, {name + suffix!r} is read")
    return True


def repeated(dataset: Any, pairs: list[Pair]) -> list[Finding]:
    """Photos that stand twice in the list."""
    times = Counter(pair[:2] for pair in pairs)
    return [
        Finding(LISTED_TWICE, photo.as_posix(), f"{n} times in {dataset.ann_file}")
        for (photo, _), n in times.items()
        if n > 1
    ]


def coco_pairs(dataset: Any, content: Mapping[str, Any], reads_masks: bool) -> list[Pair]:
    """Photos of a ``CocoDataset`` with their sizes and, where masks are read, label masks."""
    pairs = []
    for image in content["images"]:
        raw = {"raw_img_info": {**image, "img_id": image["id"]}, "raw_ann_info": []}
        pair = _pair(dataset.parse_data_info(raw), reads_masks)
        pairs.append(pair._replace(size=(image["width"], image["height"])))
    return pairs


def _pair(info: Mapping[str, Any], reads_masks: bool) -> Pair:
    mask = info.get("seg_map_path") if reads_masks else None
    return Pair(Path(info["img_path"]), Path(mask) if mask else None)


def left_over(dataset: Any, pairs: list[Pair]) -> list[Finding]:
    """Masks that belong to no photo, and files that the listing of the folders passes over.

    None where something else than that listing makes the data set.
    """
    folders = [dataset.data_prefix.get(name) for name in ("img_path", "seg_map_path")]
    if not all(folders) or dataset.ann_file or not _lists_as(dataset, "BaseSegDataset"):
        return []
    known = {path for pair in pairs for path in pair[:2]}
    findings = []
    for folder, suffix in zip(folders, (dataset.img_suffix, dataset.seg_map_suffix), strict=True):
        for file in sorted(Path(folder).rglob("*")):
            hidden = file.name.startswith(".")  # macOS' ._a.png
            if hidden or file in known or not file.name.lower().endswith(suffix.lower()):
                continue
            if not file.name.endswith(suffix):
                findings.append(Finding(CAPITALS, file.as_posix(), f"it is not *{suffix}"))
            elif folder == folders[1]:
                findings.append(Finding(NO_PHOTO, file.as_posix(), "no photo of that name"))
    return findings
