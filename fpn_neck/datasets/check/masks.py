"""Checks of photos and label masks as mmseg's and mmdet's ``LoadAnnotations`` read them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.findings import Finding, InvalidFile, attempt, decode
from fpn_neck.utils.photos import highest_value
from fpn_neck.utils.text import first_few

ORIENTATION = 0x0112  # EXIF tag
_INDICES = ("1", "P", "L", "I;16", "I;16B", "I")  # PIL's modes of one whole number per pixel


Scales = tuple[tuple[float, float], ...]  # (long, short) sides in px


class Pair(NamedTuple):
    """A photo, its mask if it has one, and the size that an annotation file gives.

    Attributes:
        size: (width, height) in px.
    """

    photo: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


class Reading(NamedTuple):
    """How masks become labels.

    Attributes:
        num_classes: K; labels are 0..K-1.
        ignore_index: the label to ignore; None if there is none.
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

    @property
    def fits(self) -> bool:
        """Whether the labels are values 0..255, none of which is ignored by mmseg's default."""
        return self.num_classes <= (255 if self.ignore_index == 255 else 256)

    def describe(self) -> str:
        ignored = "" if self.ignore_index is None else f" and {self.ignore_index} (ignored)"
        text = f"labels are 0..{self.num_classes - 1}{ignored}"
        return text + (" after reduce_zero_label" if self.reduce_zero_label else "")

    def wrong(self) -> np.ndarray:
        """Which of the values 0..255 are not labels, bool (256,)."""
        labels = self.table()
        return (labels != self.ignore_index) & ~((labels >= 0) & (labels < self.num_classes))


class Mask(NamedTuple):
    """A mask's (width, height) in px, whether it has a palette, and its pixels of each value.

    Attributes:
        pixels: of the values 0..255, int64 (256,).
    """

    size: tuple[int, int]
    palette: bool
    pixels: np.ndarray


_M = TypeVar("_M", Mask, Image.Image)


class Examined(NamedTuple):
    pair: Pair
    findings: list[Finding]
    mask: Mask | None


def examine(
    pair: Pair,
    reading: Reading | None,
    *,
    header_only: bool = False,
    scales: Scales = (),
    turned: bool = True,
) -> Examined:
    """Check a photo and its mask.

    Args:
        reading: how the mask becomes labels; None leaves it unread.
        header_only: read the photo's header only.
        scales: see `vanishing`.
        turned: see `photo_size`.
    """
    size_of = partial(photo_size, header_only=header_only, turned=turned)
    mask_of = partial(_count, reading=reading) if reading else None
    return Examined(pair, *check_pair(pair, size_of, mask_of, scales))


def check_pair(
    pair: Pair,
    size_of: Callable[[Path], tuple[int, int]],
    mask_of: Callable[[Path], _M] | None,
    scales: Scales = (),
) -> tuple[list[Finding], _M | None]:
    """Read a photo and its mask and compare their sizes; the findings, and the mask.

    Args:
        size_of: reads the photo's (width, height).
        mask_of: reads the mask; None leaves it unread.
        scales: see `vanishing`.
    """
    findings = missing(pair)
    if findings:
        return findings, None
    size = attempt(size_of, pair.photo, findings)
    findings += vanishing(pair.photo, size, scales) if size else []
    if size and pair.size and size != pair.size:
        value = "photo {}x{}, its annotation {}x{} pixels".format(*size, *pair.size)
        findings.append(Finding(kinds.SIZE, pair.photo.as_posix(), value))
    if not pair.mask or not mask_of:
        return findings, None
    mask = attempt(mask_of, pair.mask, findings)
    if mask and 1 in mask.size:
        value = "mask {}x{} pixels".format(*mask.size)
        findings.append(Finding(kinds.THIN, pair.mask.as_posix(), value))
    if mask and size and mask.size != size:
        value = "mask {}x{}, photo {}x{} pixels".format(*mask.size, *size)
        findings.append(Finding(kinds.SIZE, pair.mask.as_posix(), value))
    return findings, mask


def vanishing(photo: Path, size: tuple[int, int], scales: Scales) -> list[Finding]:
    """Whether fitting a photo into a scale, as mmcv does it, leaves no pixel of one side.

    Args:
        size: of the photo, (width, height) in px.
        scales: (long, short) sides in px.
    """
    for long, short in scales:
        factor = min(long / max(size), short / min(size))
        width, height = (int(length * factor + 0.5) for length in size)
        if not (width and height):
            value = "{}x{} px becomes {}x{}".format(*size, width, height)
            value += f" in the scale ({long:g}, {short:g})"
            return [Finding(kinds.VANISHES, photo.as_posix(), value)]
    return []


def missing(pair: Pair) -> list[Finding]:
    """Which file of the pair does not exist or is empty; neither is opened."""
    findings = []
    for path in filter(None, (pair.photo, pair.mask)):
        file = path.as_posix()
        if not path.is_file() and path == pair.photo:
            findings.append(Finding(kinds.MISSING, file, "no such file"))
        elif not path.is_file():
            value = f"no file {file}{_near(path)}"
            findings.append(Finding(kinds.NO_MASK, pair.photo.as_posix(), value))
        elif not path.stat().st_size:
            findings.append(Finding(kinds.UNREADABLE, file, "0 bytes"))
    return findings


def _near(mask: Path) -> str:
    """A file of its folder whose name goes on after the mask's: ``1_mask.png`` for ``1.png``."""
    names, stem = _names_in(mask.parent), mask.stem
    longer = takewhile(lambda name: name.startswith(stem), names[bisect_left(names, stem) :])
    near = (name for name in longer if not name[len(stem) : len(stem) + 1].isalnum())  # not 10.png
    return "".join(f"; {name} is there" for name in islice(near, 1))


@lru_cache(maxsize=4)
def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def photo_size(path: Path, *, header_only: bool = False, turned: bool = True) -> tuple[int, int]:
    """(width, height) as mmcv reads the photo.

    Args:
        turned: as its EXIF tag says; mmcv does not do so with every setting.

    Raises:
        InvalidFile: NO_RANGE, and see `decode`.
    """
    photo = decode(path, header_only=header_only)
    if not highest_value(photo):
        raise InvalidFile(kinds.NO_RANGE, f"{photo.format}, mode {photo.mode}")
    on_its_side = "exif" in photo.info and photo.getexif().get(ORIENTATION, 1) >= 5
    return photo.size[::-1] if turned and on_its_side else photo.size


def _count(path: Path, reading: Reading) -> Mask:
    mask = open_mask(path, reading)
    return Mask(mask.size, mask.mode == "P", count_values(mask, reading))


def open_mask(path: Path, reading: Reading) -> Image.Image:
    """A decoded mask with one whole number per pixel.

    Raises:
        InvalidFile: UNREADABLE, LOSSY, FLOATS, or COLOURS.
    """
    mask = decode(path)
    shown = f"{mask.format}, mode {mask.mode}"
    if mask.format == "JPEG":  # whatever its name says
        if mask.mode == "L":
            invented = np.dot(mask.histogram(), reading.wrong())
            shown += f", {invented} of {mask.width * mask.height} pixels are not labels"
        raise InvalidFile(kinds.LOSSY, shown)
    if mask.mode == "F":
        raise InvalidFile(kinds.FLOATS, shown)
    indexed = mask.mode in ("1", "P")  # OpenCV reads 0 and 255 of a mask of mode 1
    if mask.mode not in _INDICES or (indexed and reading.palette_colours):
        raise InvalidFile(kinds.COLOURS, shown)
    return mask


def count_values(mask: Image.Image | np.ndarray, reading: Reading) -> np.ndarray:
    """The pixels of each value 0..255, int64 (256,).

    Args:
        mask: a picture, or its values, numbers of any type.

    Raises:
        InvalidFile: NO_LABEL.
    """
    if isinstance(mask, Image.Image) and mask.mode in ("L", "P"):
        pixels = np.array(mask.histogram())  # much faster than by way of an array
    else:
        pixels = _bincount(np.asarray(mask), reading)
    wrong = np.flatnonzero(reading.wrong() & (pixels > 0))
    if wrong.size:
        raise _no_label(pixels[wrong].sum(), pixels.sum(), wrong, reading)
    return pixels


def _bincount(values: np.ndarray, reading: Reading) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN is found by the comparison
        indices = values.astype(np.uint8)
    wrong = values[indices != values]  # the frameworks would take the low byte
    if wrong.size:
        raise _no_label(wrong.size, values.size, np.unique(wrong), reading)
    return np.bincount(indices.ravel(), minlength=256)


def _no_label(count: int, total: int, values: np.ndarray, reading: Reading) -> InvalidFile:
    shown = first_few(values.tolist(), 5)
    return InvalidFile(
        kinds.NO_LABEL, f"{count} of {total} pixels hold {shown}; {reading.describe()}"
    )


class Tally:
    """What all masks of a data set hold.

    Attributes:
        pixels, masks: per label, int64 (K,): its pixels, and the masks with at least one.
        read: the number of masks.
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
            self._zero_255.append(Finding(kinds.ZERO_255, file, value))

    def findings(self, name: str) -> list[Finding]:
        """What a single mask does not show.

        Args:
            name: of the data set.
        """
        found: list[Finding] = []
        seen = set(np.flatnonzero(self._values).tolist())
        binary = self._reading.num_classes <= 2
        if seen <= {0, 255}:  # else a mask may be background and ignored pixels only
            found += self._zero_255
        if len(self._palettes) < self.read:
            found += [Finding(kinds.MIXED_PALETTE, file, "mode P") for file in self._palettes]
        if self._reading.reduce_zero_label and binary and 1 in seen and seen <= {0, 1, 255}:
            value = "reduce_zero_label=True and the masks hold 0 and 1: 0 is ignored, 1 becomes 0"
            found.append(Finding(kinds.BINARY_REDUCED, name, value))
        return found
