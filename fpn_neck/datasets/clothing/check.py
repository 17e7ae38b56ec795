"""Checks of Clothing Co-Parsing's files: what would poison training is found and named.

Two layouts are known. The authors' repository (github.com/bearpaw/clothing-co-parsing; Yang, Luo,
Lin, "Clothing Co-Parsing by Joint Image Segmentation and Labeling", CVPR 2014) has
``photos/0001.jpg``, ``annotations/pixel-level/0001.mat`` and ``label_list.mat``. Kaggle's layout,
which is what training reads, is described in `fpn_neck.datasets.clothing.layout`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fpn_neck.datasets.check import findings
from fpn_neck.datasets.check.findings import (
    LOSSY,
    NO_MASK,
    NO_PHOTO,
    SIZE,
    UNREADABLE,
    Finding,
    Refused,
    attempt,
    decode,
    unreadable,
)
from fpn_neck.datasets.clothing.layout import CLASSES

# What is refused beside file_check's, and the remedy for all.
NO_VARIABLE = ".mat file without the expected variable"
NOT_GREY = "mask is not an 8-bit grey PNG (PIL mode L)"
NO_LABEL = f"mask holds values that are no label (0 to {len(CLASSES) - 1})"
ROTATED = "photo is rotated by its EXIF tag, its mask is not"
LABELS = "labels are not the 59 of CCP in their order"
_ORIGINAL_MASKS = (
    "take the mask of Kaggle's png_masks, or convert github.com/bearpaw/clothing-co-parsing "
    "with this tool"
)
REMEDY = {
    UNREADABLE: "download the file again",
    NO_VARIABLE: "take the file of github.com/bearpaw/clothing-co-parsing",
    LOSSY: _ORIGINAL_MASKS,
    NOT_GREY: "save the label indices, not their colours, as one 8-bit grey channel",
    NO_LABEL: _ORIGINAL_MASKS,
    ROTATED: "rotate the pixels and drop the tag (PIL.ImageOps.exif_transpose)",
    SIZE: "take both from the same download, neither resized",
    NO_MASK: "download the missing file, or remove this one",
    NO_PHOTO: "download the missing file, or remove this one",
    LABELS: f"put back the download's own list, from 0 {CLASSES[0]} to 58 {CLASSES[-1]}",
}


class RefusedData(findings.RefusedData):
    """See `findings.RefusedData`; the findings' files are relative to the source."""

    remedies = REMEDY


def _load_mat(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    try:
        variables = loadmat(path)
    except Exception as error:  # ValueError, TypeError, zlib.error, NotImplementedError (v7.3) …
        raise unreadable(path, error) from error
    if name not in variables:
        others = ", ".join(key for key in variables if not key.startswith("__")) or "nothing"
        raise Refused(NO_VARIABLE, f"holds {others}, not {name}")
    return variables[name]


def read_photo(path: Path) -> tuple[int, int]:
    """Decode the photo; its (width, height)."""
    photo = decode(path)
    orientation = photo.getexif().get(0x0112, 1)
    if orientation != 1:
        raise Refused(ROTATED, f"orientation {orientation}")
    return photo.size


def read_mask(path: Path) -> np.ndarray:
    """The label indices (H, W), uint8, of a ``.png`` or ``.mat`` mask."""
    return _read_mat_mask(path) if path.suffix == ".mat" else _read_png_mask(path)


def _read_mat_mask(path: Path) -> np.ndarray:
    values = _load_mat(path, "groundtruth")
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise Refused(NO_LABEL, f"groundtruth is {values.dtype} of shape {values.shape}")
    return _require_labels(values)


def _read_png_mask(path: Path) -> np.ndarray:
    mask = decode(path)
    if mask.format == "JPEG":  # whatever its name says
        values = np.asarray(mask.convert("L"))
        invented = np.count_nonzero(values >= len(CLASSES))
        raise Refused(LOSSY, f"JPEG, {invented} of {values.size} pixels hold values above 58")
    # A palette is refused too: OpenCV reads its colours, and PNG optimisers renumber its indices.
    if (mask.format, mask.mode) != ("PNG", "L"):
        raise Refused(NOT_GREY, f"{mask.format}, mode {mask.mode}")
    return _require_labels(np.asarray(mask))


def _require_labels(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN is found by the comparison
        labels = values.astype(np.uint8)
    wrong = values[(labels != values) | (labels >= len(CLASSES))]
    if wrong.size:
        span = f"{wrong.min()} to {wrong.max()}"
        raise Refused(NO_LABEL, f"{wrong.size} of {values.size} pixels, values {span}")
    return labels


def _read_labels(path: Path) -> None:
    """Compare ``labels.csv`` or ``label_list.mat`` with ``CLASSES``."""
    rows = _mat_labels(path) if path.suffix == ".mat" else _csv_labels(path)
    for i, (row, name) in enumerate(zip(rows, CLASSES, strict=False)):
        if row != (str(i), name):
            raise Refused(LABELS, f"{','.join(row)!r} in place of '{i},{name}'")
    if len(rows) != len(CLASSES):
        raise Refused(LABELS, f"{len(rows)} labels")


def _csv_labels(path: Path) -> list[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            _header, *rows = [tuple(map(str.strip, row)) for row in csv.reader(file) if row]
    except FileNotFoundError as error:
        raise Refused(LABELS, "missing") from error
    except (ValueError, csv.Error) as error:  # empty, or not UTF-8
        raise unreadable(path, error) from error
    if rows and rows[0] in {("0", ""), ("0", "nan"), ("0", "NaN")}:
        rows[0] = ("0", "null")  # pandas reads and writes the word null as no value
    return rows


def _mat_labels(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        raise Refused(LABELS, "missing")
    cells = _load_mat(path, "label_list").ravel()
    return [(str(i), _innermost(cell)) for i, cell in enumerate(cells)]


def _innermost(cell: object) -> str:
    while isinstance(cell, np.ndarray) and cell.size == 1:  # cells may be nested in cells
        cell = cell.item()
    return str(cell).strip()


class Pair(NamedTuple):
    number: int
    photo: Path
    mask: Path


class Source(NamedTuple):
    """The pairs of a source folder; ``original`` means the authors' layout, to be converted."""

    root: Path
    original: bool
    pairs: list[Pair]
    findings: list[Finding]
    unlabelled: int  # photos of the authors' repository that never had pixel labels


def open_source(root: Path) -> Source:
    """Recognise the layout of ``root``, compare its labels and pair photos with masks by number.

    Raises:
        ValueError: ``root`` has neither layout, or not one pair of photo and mask.
    """
    original = (root / "annotations" / "pixel-level").is_dir()
    if original:
        labels = root / "label_list.mat"
        photos = _numbered(root / "photos", "", ".jpg")
        masks = _numbered(root / "annotations" / "pixel-level", "", ".mat")
    else:
        labels = root / "labels.csv"
        photos = _kaggle(root, "images", "img_")
        masks = _kaggle(root, "masks", "seg_")
    pairs = [Pair(n, photos[n], masks[n]) for n in sorted(photos.keys() & masks.keys())]
    if not pairs:
        raise ValueError(
            f"{root} holds no pair of photo and mask: give the folder that has photos/ and "
            "annotations/pixel-level/ (CCP) or jpeg_images/ and png_masks/ (Kaggle)"
        )
    findings: list[Finding] = []
    attempt(_read_labels, labels, root, findings)
    findings += _lonely(NO_PHOTO, masks, photos, root)
    if original:
        return Source(root, True, pairs, findings, len(photos.keys() - masks.keys()))
    return Source(root, False, pairs, findings + _lonely(NO_MASK, photos, masks, root), 0)


def _numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    files = folder.glob(f"{prefix}[0-9][0-9][0-9][0-9]{suffix}")
    return {int(file.stem[-4:]): file for file in files}


def _kaggle(root: Path, what: str, prefix: str) -> dict[int, Path]:
    """Kaggle has everything twice: the photos' JPEGs are the originals, the masks' PNGs are."""
    jpeg = _numbered(root / f"jpeg_{what}" / what.upper(), prefix, ".jpeg")
    png = _numbered(root / f"png_{what}" / what.upper(), prefix, ".png")
    return (png or jpeg) if what == "masks" else (jpeg or png)


def _lonely(kind: str, files: dict[int, Path], others: dict[int, Path], root: Path):
    lonely = sorted(files.keys() - others.keys())
    return [Finding(kind, files[n].relative_to(root).as_posix(), f"number {n}") for n in lonely]
