"""What the pixels of a user's masks say: labels, 0 and 255, a few grey values, or colours."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fpn_neck.utils.results.pictures import save_labels
from fpn_neck.utils.text import first_few

IGNORED = 255  # as in mmseg
_MOST_COLOURS = 256  # a JPEG's mask has thousands
_SHIFTS = np.array([1 << 16, 1 << 8, 1])
_GREY = int(_SHIFTS.sum())  # of a colour with r = g = b
_CHANNELS = ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA", "La", "RGBa", "RGBX", "HSV", "LAB")

Value = int  # a grey value, or 65536 r + 256 g + b


class MaskValues(NamedTuple):
    """The values of all masks.

    Attributes:
        pixels: value -> pixels.
        coloured: whether they are colours.
        channels: whether there are files of several channels, which may hold grey values only.
        palettes: whether colours of palettes were read, not their indices.
    """

    pixels: Counter[Value]
    coloured: bool
    channels: bool = False
    palettes: bool = False

    def are_labels(self, num_classes: int | None) -> bool:
        """Whether the values are labels 0..K-1 and `IGNORED` as they are.

        Without a K, at least half of 0..largest must occur.
        """
        labels = set(self.pixels) - {IGNORED}
        if self.coloured or not labels or set(self.pixels) == {0, IGNORED}:
            return False
        most = 2 * len(labels) if num_classes is None else num_classes
        return max(labels) < most


def read_values(masks: Iterable[Path], *, palettes: bool = False) -> MaskValues:
    """Count the values of all masks.

    Args:
        palettes: read the colours of palettes, not their indices.

    Raises:
        ValueError: a mask can't be read, or there are more than 256 values; names the file.
    """
    single: Counter[Value] = Counter()
    coloured: Counter[Value] = Counter()
    first: dict[bool, Path] = {}
    for path in masks:
        values, has_channels = _read(path, palettes)
        found, counts = np.unique(values, return_counts=True)
        pixels = coloured if has_channels else single
        pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if len(pixels) > _MOST_COLOURS:
            raise ValueError(
                f"{path}: more than {_MOST_COLOURS} different values so far; a mask has one value "
                "or colour per class, and JPEG or smooth edges mix them: save masks as PNG"
            )
        if pixels.keys() - {0}:  # black is 0 in both
            first.setdefault(has_channels, path)
    if all(value % _GREY == 0 for value in coloured):
        grey = Counter({value // _GREY: count for value, count in coloured.items()})
        return MaskValues(single + grey, False, bool(coloured), palettes)
    if len(first) == 2:
        raise ValueError(
            f"{first[True]} holds colours and {first[False]} one number for each pixel: save all "
            "masks in one way"
        )
    return MaskValues(single + coloured, True, True, palettes)


def pixel_values(path: Path, *, coloured: bool, palettes: bool = False) -> np.ndarray:
    """The values of the pixels, (H, W) int64.

    Args:
        coloured: 65536 r + 256 g + b; else an index or a grey value, also of a file of channels.
        palettes: read the colours of a palette, not its indices.

    Raises:
        ValueError: it can't be read.
    """
    values, has_channels = _read(path, palettes)
    return values // _GREY if has_channels and not coloured else values


def _read(path: Path, palettes: bool) -> tuple[np.ndarray, bool]:
    """Indices, grey values or 65536 r + 256 g + b, and whether the file has several channels."""
    try:
        with Image.open(path) as image:
            if image.mode in _CHANNELS or (palettes and image.mode == "P"):
                if any("16" in str(tile[3]) for tile in image.tile):  # pillow takes the high bytes
                    raise ValueError("16 bits for each channel; save it with 8")
                return np.array(image.convert("RGB")).astype(np.int64) @ _SHIFTS, True
            values = np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path}: the mask can't be read ({e})") from e
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(f"{path}: the mask holds numbers that are not whole; save it as 8-bit PNG")
    return whole * (IGNORED if image.mode == "1" else 1), False


def name_of(value: Value, coloured: bool) -> str:
    """'17' or '#ff0080'."""
    return f"#{value:06x}" if coloured else str(value)


class Table(NamedTuple):
    """A user's table: colour or grey value -> class, and whether its lines hold colours."""

    names: dict[Value, str]
    coloured: bool


def read_table(path: Path) -> Table:
    """A table from a file of lines ``name,r,g,b`` or ``name,value``.

    Several values may have one name. The classes are in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is neither, or there are lines of both kinds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--table {path}: no such file")
    names: dict[Value, str] = {}
    lengths: set[int] = set()
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, (name, *values) in enumerate(filter(None, csv.reader(file)), 1):
            numbers = [int(v) for v in values if v.strip().isdigit() and int(v) < 256]
            if len(numbers) != len(values) or len(values) not in (1, 3):
                words = [v for v in values if v.strip() and not any(map(str.isdigit, v))]
                if number == 1 and len(words) == len(values) and len(values) in (1, 3):
                    continue  # a header
                raise ValueError(f"{path}, line {number}: want name,r,g,b or name,value, 0..255")
            value = numbers[0] if len(numbers) == 1 else int(np.dot(numbers, _SHIFTS))
            if names.setdefault(value, name.strip()) != name.strip():
                raise ValueError(
                    f"{path}, line {number}: {name_of(value, len(numbers) == 3)} is "
                    f"{names[value]!r} above and {name.strip()!r} here; give it one name"
                )
            lengths.add(len(numbers))
    if len(lengths) != 1:
        what = "lines of both kinds, want" if lengths else "no line"
        raise ValueError(f"{path}: {what} name,r,g,b or name,value")
    return Table(names, 3 in lengths)


def as_values(table: Table, coloured: bool) -> dict[Value, str]:
    """A table's colours with r = g = b as grey values, if the masks hold these."""
    grey = table.coloured and not coloured and all(value % _GREY == 0 for value in table.names)
    return {value // _GREY if grey else value: name for value, name in table.names.items()}


def labels_of(values: MaskValues, names: Sequence[str] | None) -> dict[Value, int]:
    """Value -> label, the smallest value first: black is 0.

    Raises:
        ValueError: there are not as many values as names, or names of colours that could be in
            any order.
    """
    ordered = sorted(values.pixels)
    if len(ordered) > IGNORED:
        raise ValueError(
            f"the masks hold {len(ordered)} values, and labels are 0 to {IGNORED - 1}, since "
            f"{IGNORED} is ignored; give a --table that joins some, or names them 'ignore'"
        )
    if names is not None and len(names) != len(ordered):
        shown = first_few([name_of(v, values.coloured) for v in ordered], 8)
        raise ValueError(
            f"--classes names {len(names)} classes, and the masks hold {len(ordered)} values "
            f"({shown}); give a --table of lines name,r,g,b (or name,value)"
        )
    if names is not None and values.coloured and (len(names) > 2 or ordered[0] != 0):
        raise ValueError(
            f"--classes: nobody can tell which of {len(ordered)} colours is {names[1]!r}; give a "
            "--table of lines name,r,g,b"
        )
    return {value: label for label, value in enumerate(ordered)}


def write_label_masks(
    masks: Iterable[tuple[Path, Path]],
    labels: Mapping[Value, int],
    *,
    coloured: bool = False,
    palettes: bool = False,
    unknown: Callable[[Value], str] = str,
) -> None:
    """Write masks of labels; a value that the table lacks is refused.

    Args:
        masks: (mask, file to write, a PNG) of each.
        labels: value -> label, 0..255.
        coloured, palettes: see `pixel_values`.
        unknown: the words for a value in an error.

    Raises:
        ValueError: a mask holds a value without a label.
    """
    known = np.array(sorted(labels), np.int64)
    targets = np.array([labels[value] for value in known.tolist()], np.uint8)
    for mask, path in masks:
        values = pixel_values(mask, coloured=coloured, palettes=palettes)
        index = np.searchsorted(known, values).clip(max=len(known) - 1)
        wrong = values[known[index] != values]
        if wrong.size:
            raise ValueError(
                f"{mask}: {wrong.size} pixels have the value {unknown(int(wrong[0]))}, which is "
                "in no line of --table; add it, with the name of a class or 'ignore'"
            )
        save_labels(targets[index], path)
