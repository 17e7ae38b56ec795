"""Photos and masks in two folders, paired by their names, in a fixed split."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fpn_neck.utils.photo_files import find_photos, photos_text
from fpn_neck.utils.text import first_few

SPLITS = ("train", "val", "all")
_MASK_SUFFIXES = {".png", ".bmp", ".gif", ".tif", ".tiff"}  # without loss
_ONE_IN = 8  # photos is for validation


def pair_by_name(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Every photo of a folder with its mask, in the order of their names.

    A mask has its photo's path, with another suffix: ``images/a/1.jpg`` and ``masks/a/1.png``. If
    no mask has its photo's name, all have one more ending, such as ``1_mask.png``.

    Raises:
        ValueError: a folder has no files of its kind, there is only one photo, or a photo has no
            mask; names it.
    """
    for name, folder in (("images", images), ("masks", masks)):
        if not folder.is_dir():
            raise ValueError(f"{name}={str(folder)!r}: no such folder")
    if images == masks:
        raise ValueError(f"images and masks are both {images}; put the masks into their own folder")
    own = masks.resolve()
    found = find_photos([str(images)], lambda file: file.resolve().is_relative_to(own))
    photos = _by_name(found.photos, images)
    files = _by_name(_masks_in(masks), masks)
    if len(photos) < 2:
        raise ValueError(
            f"images={str(images)!r}: one photo; training and validation need one each"
        )
    if not files:
        kinds = " ".join(sorted(_MASK_SUFFIXES))
        other = photos_text(masks)
        remedy = "; save masks as PNG, JPEG and WebP change their values" if other else ""
        raise ValueError(f"masks={str(masks)!r}: no masks there ({kinds}){other}{remedy}")
    ending = _ending(photos, files)
    alone = [photo for name, photo in photos.items() if name + ending not in files]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(photos)} photos have no mask in {masks}: "
            f"{first_few([p.name for p in alone])}; a mask has its photo's name, such as "
            f"{Path(next(iter(photos))).name}{ending}.png; move photos without a mask elsewhere"
        )
    return [(photo, files[name + ending]) for name, photo in photos.items()]


def masks_without_photo(pairs: Iterable[tuple[Path, Path]], masks: Path) -> list[Path]:
    """The masks of a folder that are in no pair."""
    used = {file for pair in pairs for file in pair}
    return [file for file in _masks_in(masks) if file not in used]


def _masks_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in _MASK_SUFFIXES)


def _by_name(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Path below the folder without suffix, in NFC -> file.

    Raises:
        ValueError: two files have one name.
    """
    found: dict[str, Path] = {}
    for file in files:
        path = file.relative_to(folder).with_suffix("").as_posix()
        name = unicodedata.normalize("NFC", path)  # macOS writes accents and Hangul in parts
        if name in found:
            raise ValueError(f"{found[name]} and {file} have one name; rename or remove one")
        found[name] = file
    return found


def _ending(photos: dict[str, Path], masks: dict[str, Path]) -> str:
    """What masks' names have after their photos': '' if any has its photo's name, else the most
    frequent ending, such as '_mask': the name of a photo may begin with another one's, 1 and 10.
    """
    if not photos.keys().isdisjoint(masks):
        return ""
    endings = Counter(
        mask[i:] for mask in masks for i in range(1, len(mask) + 1) if mask[:i] in photos
    )
    return max(endings, key=lambda ending: (endings[ending], -len(ending)), default="")


def of_split(names: Iterable[str], split: str) -> list[str]:
    """The names of a split: one in eight for validation, and one at least.

    The choice depends on the names only. If photos are added, few others change their split.

    Args:
        split: 'train', 'val' or 'all'.
    """
    names = list(names)
    if split == "all":
        return names
    ordered = sorted(names, key=_number)
    chosen = set(ordered[: max(1, round(len(names) / _ONE_IN))])
    return [name for name in names if (name in chosen) == (split == "val")]


def _number(name: str) -> int:
    """A number that looks random, always the same one for a name."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def split_pairs(images: Path, masks: Path, split: str) -> list[tuple[Path, Path]]:
    """`pair_by_name` of one split.

    Raises:
        ValueError: see `pair_by_name`.
    """
    pairs = {p.relative_to(images).as_posix(): (p, mask) for p, mask in pair_by_name(images, masks)}
    return [pairs[name] for name in of_split(pairs, split)]
