"""Which files a data set of mmseg or mmdet has, and how it reads them, as its own class says.

Nothing here imports a framework: attributes tell the classes apart.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.evaluation import Evaluation
from fpn_neck.datasets.check.findings import Finding, InvalidFile, unreadable
from fpn_neck.datasets.check.heads import heads
from fpn_neck.datasets.check.masks import Pair, Reading, Scales


class DataSource(NamedTuple):
    """A data set that a config names.

    Attributes:
        name: its splits.
        dataset: mmseg's or mmdet's object, built with ``lazy_init``; the error of building it; or
            its type, if it does not read photos from files.
        loader: the settings of its pipeline's ``LoadAnnotations``; None if it has none.
        opencv: whether that transform reads masks with OpenCV, not pillow.
        indices: its photos that are taken, the first n or those of these numbers; None is all.
        evaluations: the evaluators of its splits.
        scales: (long, short) sides in px that photos are fitted into first, keeping their ratio.
        turned: whether its pipeline turns photos as their EXIF tag says.
    """

    name: str
    dataset: Any
    loader: Mapping[str, Any] | None
    opencv: bool
    indices: int | Sequence[int] | None = None
    evaluations: tuple[Evaluation, ...] = ()
    scales: Scales = ()
    turned: bool = True


def classes_of(sources: Sequence[DataSource]) -> dict[str, Sequence[str]]:
    """Name of a data set -> its classes, of those that name some."""
    found = {
        source.name: getattr(source.dataset, "metainfo", {}).get("classes") for source in sources
    }
    return {k: v for k, v in found.items() if v and not isinstance(v, str)}


def check_numbering(config: str, sources: Sequence[DataSource]) -> list[Finding]:
    """Find splits of one data set that read the same value of a mask as different labels.

    Two data sets are one if they have the same class and folder, and masks of the same suffix.

    Args:
        config: name of the config file.
    """
    first: dict[Any, DataSource] = {}
    findings = []
    for source in sources:
        dataset = source.dataset
        if source.loader is None or format_of(dataset) != "masks":
            continue
        key = type(dataset), str(dataset.data_root), dataset.seg_map_suffix
        other = first.setdefault(key, source)
        if bool(other.dataset.reduce_zero_label) != bool(dataset.reduce_zero_label):
            names = f"{other.name}: reduce_zero_label={other.dataset.reduce_zero_label}, "
            names += f"{source.name}: {dataset.reduce_zero_label}"
            findings.append(Finding(kinds.NUMBERING, config, names))
    return findings


def format_of(dataset: Any) -> str:
    """'masks' for a ``BaseSegDataset``, 'coco' for a ``CocoDataset``, '' for any other."""
    if (getattr(dataset, "backend_args", None) or {}).get("backend", "local") != "local":
        return ""  # files elsewhere
    if hasattr(dataset, "COCOAPI"):
        return "coco" if _lists_as(dataset, "CocoDataset") else ""
    return "masks" if hasattr(dataset, "label_map") else ""


def is_panoptic(dataset: Any) -> bool:
    """Whether a ``CocoDataset`` reads a file of segments, not of objects."""
    return not dataset.ANN_ID_UNIQUE


def _lists_as(dataset: Any, name: str) -> bool:
    """Whether the class of this name lists the files, not one derived from it."""
    owner = next(c for c in type(dataset).__mro__ if "load_data_list" in vars(c))
    return owner.__name__ == name


def reading_of(source: DataSource, model: Mapping[str, Any]) -> Reading | None:
    """How its masks become labels; None if it reads no masks, or K is unknown."""
    dataset, loader = source.dataset, source.loader
    coco = format_of(dataset) == "coco"
    if loader is None or (coco and not loader.get("with_seg")):
        return None
    k, ignore_index = _panoptic_labels(model) if coco else _segmenter_labels(dataset, model)
    if not k:
        return None
    reduced = loader.get("reduce_zero_label")
    if reduced is None:
        reduced = getattr(dataset, "reduce_zero_label", False)
    label_map = None if coco else dataset.label_map
    return Reading(k, ignore_index, reduced, label_map, source.opencv)


def _segmenter_labels(dataset: Any, model: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(K, ignored label): the data's K, else that of the first head."""
    first: Mapping[str, Any] = next((h for _, h in heads(model) if "num_classes" in h), {})
    classes = dataset.metainfo.get("classes")
    known = classes and not isinstance(classes, str)
    return len(classes) if known else first.get("num_classes"), first.get("ignore_index", 255)


def _panoptic_labels(model: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(K, ignored label) of a detector's head for label maps: K counts things and stuff."""
    semantic = (head for path, head in heads(model) if path.endswith("semantic_head"))
    head: Mapping[str, Any] = next(semantic, {})
    k = head.get("num_classes")
    if "num_stuff_classes" in head:
        k = head.get("num_things_classes", 0) + head["num_stuff_classes"]
    return k, head.get("loss_seg", {}).get("ignore_index", 255)


def mask_pairs(dataset: Any, reads_masks: bool) -> list[Pair]:
    """Photos and masks of a ``BaseSegDataset``; raises whatever its class raises."""
    return [_pair(info, reads_masks) for info in dataset.load_data_list()]


def has_names(path: Path, dataset: Any) -> bool:
    """True, unless a ``BaseSegDataset`` would misread the names in its split file ``path``.

    Raises:
        InvalidFile: UNREADABLE, BOM, or SUFFIXED.
    """
    if not path.is_file() or not _lists_as(dataset, "BaseSegDataset"):
        return True
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if text.startswith("\ufeff"):
        raise InvalidFile(kinds.BOM, "begins with U+FEFF")
    folder, suffix = dataset.data_prefix.get("img_path") or "", dataset.img_suffix
    for name in map(str.strip, text.split("\n")):
        file = os.path.join(folder, name)
        if not os.path.isfile(file + suffix) and os.path.isfile(file):
            raise InvalidFile(kinds.SUFFIXED, f"{name!r} exists, {name + suffix!r} is read")
    return True


def repeated(dataset: Any, pairs: list[Pair]) -> list[Finding]:
    """Photos that are listed more than once."""
    times = Counter(pair[:2] for pair in pairs)
    return [
        Finding(kinds.LISTED_TWICE, photo.as_posix(), f"{n} times in {dataset.ann_file}")
        for (photo, _), n in times.items()
        if n > 1
    ]


def coco_pairs(dataset: Any, content: Mapping[str, Any], reads_masks: bool) -> list[Pair]:
    """Photos of a ``CocoDataset`` with their sizes and, if it reads them, label masks."""
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
    """Masks without a photo, and files that listing the folders skips.

    Nothing is found in a data set whose files are not listed from its folders.
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
                findings.append(Finding(kinds.CAPITALS, file.as_posix(), f"not *{suffix}"))
            elif folder == folders[1]:
                findings.append(Finding(kinds.NO_PHOTO, file.as_posix(), "no photo of that name"))
    return findings
