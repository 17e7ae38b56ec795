"""Checks of Clothing Co-Parsing's files, on top of the checks of any photo and label mask.

Two layouts are known. The authors' repository (github.com/bearpaw/clothing-co-parsing; Yang, Luo,
Lin, "Clothing Co-Parsing by Joint Image Segmentation and Labeling", CVPR 2014) has
``photos/0001.jpg``, ``annotations/pixel-level/0001.mat`` and ``label_list.mat``. Kaggle's layout,
which training reads, is described in `fpn_neck.datasets.clothing.layout`.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fpn_neck.datasets.check.findings import Finding, InvalidFile, attempt, decode, unreadable
from fpn_neck.datasets.check.kinds import LOSSY, NO_LABEL, NO_MASK, NO_PHOTO, Kind
from fpn_neck.datasets.check.masks import ORIENTATION, Pair, Reading, count_values, open_mask
from fpn_neck.datasets.clothing.layout import CLASSES, IMAGES, MASKS

NO_VARIABLE = Kind(
    ".mat file without the expected variable",
    "take the file of github.com/bearpaw/clothing-co-parsing",
)
NOT_GREY = Kind(
    "mask is not an 8-bit grey PNG (PIL mode L)",
    "save the label indices as one 8-bit grey channel, as PNG",
)
ROTATED = Kind(
    "photo is rotated by its EXIF tag, its mask is not",
    "rotate the pixels and drop the tag (PIL.ImageOps.exif_transpose)",
)
LABELS = Kind(
    "labels are not the 59 of CCP in their order",
    f"put back the download's own list, from 0 {CLASSES[0]} to 58 {CLASSES[-1]}",
)
_ORIGINAL_MASKS = (
    "take the mask of Kaggle's png_masks, or convert github.com/bearpaw/clothing-co-parsing "
    "with this tool"
)
_DOWNLOAD = "download the missing file, or remove this one"
# Of the general checks, whose remedies name the options of a config.
REMEDIES = {
    **dict.fromkeys((LOSSY, NO_LABEL), _ORIGINAL_MASKS),
    **dict.fromkeys((NO_MASK, NO_PHOTO), _DOWNLOAD),
}
# A palette is refused: OpenCV reads its colours, and PNG optimisers renumber its indices.
_READING = Reading(len(CLASSES), ignore_index=None, palette_colours=True)


def as_found_in(root: Path, finding: Finding) -> Finding:
    """The finding with its file as seen from ``root`` and the remedy for these photos."""
    remedy = REMEDIES.get(finding.kind, finding.kind.remedy)
    file = Path(os.path.relpath(finding.file, root)).as_posix()
    return Finding(finding.kind._replace(remedy=remedy), file, finding.value)


def unrotated_size(path: Path) -> tuple[int, int]:
    """Decode the photo; its (width, height).

    Raises:
        InvalidFile: UNREADABLE, or ROTATED.
    """
    photo = decode(path)
    orientation = photo.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        raise InvalidFile(ROTATED, f"orientation {orientation}")
    return photo.size


def read_mask(path: Path) -> Image.Image:
    """The label indices, 8-bit grey, of a ``.png`` or ``.mat`` mask.

    Raises:
        InvalidFile: UNREADABLE, NO_VARIABLE, LOSSY, COLOURS, FLOATS, NOT_GREY, or NO_LABEL.
    """
    if path.suffix == ".mat":
        return _read_mat_mask(path)
    mask = open_mask(path, _READING)
    if (mask.format, mask.mode) != ("PNG", "L"):
        raise InvalidFile(NOT_GREY, f"{mask.format}, mode {mask.mode}")
    count_values(mask, _READING)
    return mask


def _read_mat_mask(path: Path) -> Image.Image:
    values = _load_mat(path, "groundtruth")
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise InvalidFile(NO_LABEL, f"groundtruth is {values.dtype} of shape {values.shape}")
    count_values(values, _READING)
    return Image.fromarray(values.astype(np.uint8))


def _load_mat(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    try:
        variables = loadmat(path)
    except Exception as error:  # ValueError, TypeError, zlib.error, NotImplementedError (v7.3) …
        raise unreadable(path, error) from error
    if name not in variables:
        others = ", ".join(key for key in variables if not key.startswith("__")) or "nothing"
        raise InvalidFile(NO_VARIABLE, f"holds {others}, not {name}")
    return variables[name]


def _read_labels(path: Path) -> None:
    """Compare ``labels.csv`` or ``label_list.mat`` with ``CLASSES``."""
    if not path.exists():
        raise InvalidFile(LABELS, "missing")
    rows = _mat_labels(path) if path.suffix == ".mat" else _csv_labels(path)
    for i, (row, name) in enumerate(zip(rows, CLASSES, strict=False)):
        if row != (str(i), name):
            raise InvalidFile(LABELS, f"{','.join(row)!r} instead of '{i},{name}'")
    if len(rows) != len(CLASSES):
        raise InvalidFile(LABELS, f"{len(rows)} labels")


def _csv_labels(path: Path) -> list[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            _header, *rows = [tuple(map(str.strip, row)) for row in csv.reader(file) if row]
    except (ValueError, csv.Error) as error:  # empty, or not UTF-8
        raise unreadable(path, error) from error
    if rows and rows[0] in {("0", ""), ("0", "nan"), ("0", "NaN")}:
        rows[0] = ("0", "null")  # pandas reads and writes the word null as no value
    return rows


def _mat_labels(path: Path) -> list[tuple[str, ...]]:
    cells = _load_mat(path, "label_list").ravel()
    return [(str(i), _innermost(cell)) for i, cell in enumerate(cells)]


def _innermost(cell: object) -> str:
    while isinstance(cell, np.ndarray) and cell.size == 1:  # cells may be nested in cells
        cell = cell.item()
    return str(cell).strip()


class SourceFolder(NamedTuple):
    """A folder of clothing photos in one of the two layouts.

    Attributes:
        original: it is the authors' layout, which has to be converted.
        unlabelled: number of photos of the authors' repository that have no pixel labels.
    """

    root: Path
    original: bool
    pairs: list[Pair]
    findings: list[Finding]
    unlabelled: int


def open_source(root: Path) -> SourceFolder:
    """Recognise the layout of ``root``, compare its labels and pair photos with masks by number.

    Raises:
        ValueError: ``root`` has neither layout, or no pair of photo and mask.
    """
    pixel_level = "annotations/pixel-level"
    original = (root / pixel_level).is_dir()
    if original:
        labels = root / "label_list.mat"
        photos = _numbered(root, "", ("photos", ".jpg"))
        masks = _numbered(root, "", (pixel_level, ".mat"))
    else:
        labels = root / "labels.csv"
        photos = _numbered(root, "img_", *IMAGES)
        masks = _numbered(root, "seg_", (MASKS, ".png"), ("jpeg_masks/MASKS", ".jpeg"))
    pairs = [Pair(photos[n], masks[n]) for n in sorted(photos.keys() & masks.keys())]
    if not pairs:
        raise ValueError(
            f"{root} holds no pair of photo and mask: give the folder that has photos/ and "
            "annotations/pixel-level/ (CCP) or jpeg_images/ and png_masks/ (Kaggle)"
        )
    findings: list[Finding] = []
    attempt(_read_labels, labels, findings)
    findings += _without(NO_PHOTO, masks, photos)
    if not original:
        findings += _without(NO_MASK, photos, masks)
    unlabelled = len(photos.keys() - masks.keys()) if original else 0
    return SourceFolder(root, original, pairs, findings, unlabelled)


def number_of(photo: Path) -> int:
    return int(photo.stem[-4:])


def _numbered(root: Path, prefix: str, *choices: tuple[str, str]) -> dict[int, Path]:
    """The files by number in the first (folder, suffix) that has any."""
    for folder, suffix in choices:
        files = list((root / folder).glob(f"{prefix}[0-9][0-9][0-9][0-9]{suffix}"))
        if files:
            return {number_of(file): file for file in files}
    return {}


def _without(kind: Kind, files: dict[int, Path], others: dict[int, Path]) -> list[Finding]:
    """A finding for each file whose number is not among the others."""
    numbers = sorted(files.keys() - others.keys())
    return [Finding(kind, files[n].as_posix(), f"number {n}") for n in numbers]
