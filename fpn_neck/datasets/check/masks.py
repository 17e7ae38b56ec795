"""Checks of photos and label masks as mmseg's and mmdet's ``LoadAnnotations`` read them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

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
)

MISSING = "photo is not there"
SUFFIXED = "split file gives names with suffix, and img_suffix is added to them"
LISTED_TWICE = "photo is listed more than once"
CAPITALS = "file is left out, for its suffix has other capitals"
COLOURS = "mask holds colours in place of label indices"
FLOATS = "mask holds floating-point numbers in place of label indices"
MIXED_PALETTE = "mask has a palette, others of the data set are plain grey"
NO_LABEL = "mask holds values that are no label"
ZERO_255 = "mask holds only 0 and 255, of which 255 is ignored in training"
BINARY_REDUCED = "reduce_zero_label leaves one label of two"
_AS_INDICES = "save the label indices 0, 1, ... as one 8-bit grey channel (PIL mode L), as PNG"
REMEDY = {
    MISSING: "copy the photo there, or remove it from the annotation or split file",
    SUFFIXED: "write the names without suffix, or set img_suffix=''",
    LISTED_TWICE: "list it once; RepeatDataset shows photos more often",
    CAPITALS: "rename it, or set img_suffix or seg_map_suffix",
    NO_MASK: "copy the mask there, or remove the photo; else check data_prefix and seg_map_suffix",
    NO_PHOTO: "copy the photo there, or remove the mask; else check data_prefix and img_suffix",
    SIZE: "take both from the same source, neither resized nor turned",
    LOSSY: "take the lossless original, or draw it again: labels along borders are lost",
    COLOURS: _AS_INDICES,
    FLOATS: _AS_INDICES,
    MIXED_PALETTE: f"check that its palette's indices are the labels, then {_AS_INDICES}",
    NO_LABEL: (
        "correct the mask or the number of classes; where labels count from 1 and 0 is nothing, "
        "set reduce_zero_label=True"
    ),
    ZERO_255: "save label 1 in place of 255",
    BINARY_REDUCED: "set reduce_zero_label=False, for background is a class here",
}
_INDICES = ("1", "P", "L", "I;16", "I;16B", "I")  # PIL's modes of one whole number per pixel


class Pair(NamedTuple):
    """A photo and its mask, if it has one; (width, height) that an annotation file gives it."""

    photo: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


class Reading(NamedTuple):
    """How masks become labels.

    Attributes:
        num_classes: K; labels are 0..K-1.
        ignore_index: the label that counts nowhere, None for no such label.
        reduce_zero_label: 0 is ignored, and every other value lowered by 1.
        label_map: old label -> new one, after that.
        palette_colours: a palette's colours are read (OpenCV), not its indices (pillow).
    """

    num_classes: int
    ignore_index: int | None = 255
    reduce_zero_label: bool = False
    label_map: dict[int, int] | None = None
    palette_colours: bool = False

    def table(self) -> np.ndarray:
        """The label that each of the values 0..255 becomes, int64 (256,)."""
        values = np.arange(256)
        if self.reduce_zero_label:
            values = np.where(np.isin(values, (0, 255)), 255, values - 1)
        labels = values.copy()
        for old, new in (self.label_map or {}).items():
            labels[values == old] = new
        return labels

    def describe(self) -> str:
        ignored = "" if self.ignore_index is None else f" and {self.ignore_index} (ignored)"
        text = f"labels are 0..{self.num_classes - 1}{ignored}"
        return text + (" after reduce_zero_label" if self.reduce_zero_label else "")

    def wrong(self) -> np.ndarray:
        """Which of the values 0..255 become no label, bool (256,)."""
        labels = self.table()
        return (labels != self.ignore_index) & ~((labels >= 0) & (labels < self.num_classes))


class Mask(NamedTuple):
    """A mask's size in px, whether it has a palette, and the pixels of each value 0..255."""

    size: tuple[int, int]
    palette: bool
    pixels: np.ndarray


class Examined(NamedTuple):
    pair: Pair
    findings: list[Finding]
    mask: Mask | None


def examine(pair: Pair, reading: Reading, *, header_only: bool = False) -> Examined:
    """Check a photo and its mask; with ``header_only`` the photo's pixels are left undecoded."""
    findings: list[Finding] = []
    found = missing(pair)
    if found:
        return Examined(pair, found, None)
    size = attempt(lambda path: _photo_size(path, header_only), pair.photo, None, findings)
    if size and pair.size and size != pair.size:
        value = "photo {}x{}, its annotation {}x{} pixels".format(*size, *pair.size)
        findings.append(Finding(SIZE, pair.photo.as_posix(), value))
    mask = pair.mask and attempt(lambda path: _read_mask(path, reading), pair.mask, None, findings)
    if mask and size and mask.size != size:
        value = "mask {}x{}, photo {}x{} pixels".format(*mask.size, *size)
        findings.append(Finding(SIZE, pair.mask.as_posix(), value))
    return Examined(pair, findings, mask or None)


def missing(pair: Pair) -> list[Finding]:
    """What of the pair isn't there or has no bytes, by a look at the directory alone."""
    findings = []
    for path in filter(None, (pair.photo, pair.mask)):
        file = path.as_posix()
        if not path.is_file() and path == pair.photo:
            findings.append(Finding(MISSING, file, "no such file"))
        elif not path.is_file():
            findings.append(Finding(NO_MASK, pair.photo.as_posix(), f"no file {file}"))
        elif not path.stat().st_size:
            findings.append(Finding(UNREADABLE, file, "0 bytes"))
    return findings


def _photo_size(path: Path, header_only: bool) -> tuple[int, int]:
    """(width, height) as mmcv reads the photo, that is turned as its EXIF tag says."""
    photo = decode(path, header_only=header_only)
    turned = "exif" in photo.info and photo.getexif().get(0x0112, 1) >= 5
    return photo.size[::-1] if turned else photo.size


def _read_mask(path: Path, reading: Reading) -> Mask:
    mask = decode(path)
    if mask.format == "JPEG":  # whatever its name says
        raise Refused(LOSSY, f"JPEG, mode {mask.mode}")
    if mask.mode == "F":
        raise Refused(FLOATS, f"{mask.format}, mode F")
    indexed = mask.mode in ("1", "P")  # OpenCV reads 0 and 255 of a mask of mode 1
    if mask.mode not in _INDICES or (indexed and reading.palette_colours):
        raise Refused(COLOURS, f"{mask.format}, mode {mask.mode}")
    pixels = _histogram(mask, reading)
    wrong = np.flatnonzero(reading.wrong() & (pixels > 0))
    if wrong.size:
        raise _no_label(pixels[wrong].sum(), wrong, mask, reading)
    return Mask(mask.size, mask.mode == "P", pixels)


def _histogram(mask: Image.Image, reading: Reading) -> np.ndarray:
    """Pixels of each value, (256,)."""
    if mask.mode in ("L", "P"):
        return np.array(mask.histogram())
    values = np.asarray(mask).astype(np.int64)
    # The frameworks would take the low byte.
    wrong = values[(values < 0) | (values > 255)]
    if wrong.size:
        raise _no_label(wrong.size, np.unique(wrong), mask, reading)
    return np.bincount(values.ravel(), minlength=256)


def _no_label(count: int, values: np.ndarray, mask: Image.Image, reading: Reading) -> Refused:
    shown = ", ".join(map(str, values[:5].tolist())) + (", ..." if len(values) > 5 else "")
    total = mask.width * mask.height
    return Refused(NO_LABEL, f"{count} of {total} pixels hold {shown}; {reading.describe()}")


class Tally:
    """What the masks of a data set hold together.

    Attributes:
        pixels, masks: per label, int64 (K,): its pixels, and the masks with at least one.
        read: masks that were read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading, self._table = reading, reading.table()
        self.pixels, self.masks = np.zeros((2, reading.num_classes), np.int64)
        self.read = 0
        self._values = np.zeros(256, np.int64)
        self._palettes: list[str] = []
        self._zero_255: list[Finding] = []

    def add(self, mask: Mask, path: Path) -> None:
        file, there = path.as_posix(), np.flatnonzero(mask.pixels)
        self.read += 1
        self._values += mask.pixels
        by_label = np.bincount(self._table[there], mask.pixels[there], 256)
        by_label = by_label[: self._reading.num_classes].astype(np.int64)
        self.pixels += by_label
        self.masks += by_label > 0
        if mask.palette:
            self._palettes.append(file)
        if 255 in there and set(there.tolist()) <= {0, 255}:
            value = f"{mask.pixels[255]} of {mask.pixels.sum()} pixels are 255"
            self._zero_255.append(Finding(ZERO_255, file, value))

    def findings(self, name: str) -> list[Finding]:
        """What a single mask doesn't tell.

        Args:
            name: of the data set.
        """
        found: list[Finding] = []
        seen = set(np.flatnonzero(self._values).tolist())
        binary = self._reading.num_classes <= 2
        if seen <= {0, 255}:  # else a mask may be background and ignored pixels alone
            found += self._zero_255
        if len(self._palettes) < self.read:
            found += [Finding(MIXED_PALETTE, file, "mode P") for file in self._palettes]
        if self._reading.reduce_zero_label and binary and 1 in seen and seen <= {0, 1, 255}:
            value = "reduce_zero_label=True and the masks hold 0 and 1: 0 is ignored, 1 becomes 0"
            found.append(Finding(BINARY_REDUCED, name, value))
        return found
