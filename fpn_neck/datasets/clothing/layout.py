"""Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014) in the layout of Kaggle's "People Clothing
Segmentation"::

    <root>/labels.csv
    <root>/jpeg_images/IMAGES/img_0001.jpeg   (or png_images/IMAGES/img_0001.png)
    <root>/png_masks/MASKS/seg_0001.png       8 bit, one label index per pixel
"""

from __future__ import annotations

import colorsys
import zlib
from pathlib import Path

# The order matters: a mask pixel of value i shows CLASSES[i].
# fmt: off
CLASSES: tuple[str, ...] = (
    "null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra",
    "bracelet", "cape", "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses",
    "gloves", "hair", "hat", "heels", "hoodie", "intimate", "jacket", "jeans", "jumper", "leggings",
    "loafers", "necklace", "panties", "pants", "pumps", "purse", "ring", "romper", "sandals",
    "scarf", "shirt", "shoes", "shorts", "skin", "skirt", "sneakers", "socks", "stockings", "suit",
    "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt", "tie", "tights", "top", "vest",
    "wallet", "watch", "wedges",
)
# fmt: on

# Components of fewer pixels are slivers of superpixels: the smallest rings, watches and earrings
# of the data set are larger.
TINY = 64

# Nine kinds, as papers on these photos merge the labels; every label is in one of them.
# fmt: off
SUPER_CLASSES: dict[str, tuple[str, ...]] = {
    "background": ("null",),
    "upper": (
        "blazer", "blouse", "bra", "cape", "cardigan", "coat", "hoodie", "intimate", "jacket",
        "jumper", "shirt", "sweater", "sweatshirt", "t-shirt", "top", "vest",
    ),
    "lower": (
        "jeans", "leggings", "panties", "pants", "shorts", "skirt", "stockings", "tights",
    ),
    "dress": ("bodysuit", "dress", "romper", "swimwear"),
    "shoes": (
        "boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers",
        "socks", "wedges",
    ),
    "accessories": (
        "accessories", "bag", "belt", "bracelet", "earrings", "glasses", "gloves", "hat",
        "necklace", "purse", "ring", "scarf", "sunglasses", "tie", "wallet", "watch",
    ),
    "skin": ("skin",),
    "hair": ("hair",),
    "suit": ("suit",),
}
# fmt: on

IMAGES = (("jpeg_images/IMAGES", ".jpeg"), ("png_images/IMAGES", ".png"))
MASKS = "png_masks/MASKS"
SPLITS = ("train", "val", "all", "choosing", "reporting")


def _colour(index: int) -> tuple[int, int, int]:
    """(red, green, blue), 0 to 255. Hues a golden angle apart: neighbours in the list differ."""
    if index == 0:
        return 40, 40, 40
    r, g, b = colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index % 2], 1 - index % 3 * 0.2)
    return round(255 * r), round(255 * g), round(255 * b)


PALETTE = [list(_colour(i)) for i in range(len(CLASSES))]


# Super-class of each label: CLASSES[i] belongs to the SUPER_OF[i]-th super-class.
SUPER_OF: tuple[int, ...] = tuple(
    next(i for i, labels in enumerate(SUPER_CLASSES.values()) if name in labels) for name in CLASSES
)
SUPER_PALETTE = [list(_colour(i)) for i in range(len(SUPER_CLASSES))]


def split_of(number: int) -> str:
    """'train' or 'val' for the photo with this number (1 for ``img_0001.jpeg``).

    One photo in eight is for validation. The choice depends on the photo's number only: it is the
    same on every machine and for every subset of the photos.
    """
    return "val" if _checksum(number) % 8 == 0 else "train"


def half_of(number: int) -> str:
    """'choosing' or 'reporting': the half of the validation split that this photo belongs to.

    A checkpoint, a recipe or a threshold that is chosen on photos looks a little too good on them.
    So choices are made on one half, and figures are reported on the other one.

    Raises:
        ValueError: the photo is for training.
    """
    if split_of(number) != "val":
        raise ValueError(f"photo {number} is for training: only the validation split has halves")
    return ("choosing", "reporting")[_checksum(number) // 8 % 2]


def _in_split(number: int, split: str) -> bool:
    own = split_of(number)
    return split in ("all", own) or (own == "val" and split == half_of(number))


def _checksum(number: int) -> int:
    return zlib.crc32(f"{number:04d}".encode())


def find_pairs(root: str | Path, split: str = "all") -> list[tuple[Path, Path]]:
    """Photos of a split with their masks, in the order of their numbers, which may have gaps.

    Raises:
        ValueError: the split is unknown, ``root`` has no photos, or a photo has no mask.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; choose one of {SPLITS}")
    root = Path(root)
    for folder, suffix in IMAGES:
        photos = sorted((root / folder).glob(f"img_*{suffix}"))
        if photos:
            break
    else:
        raise ValueError(
            f"{root}: no photos in {' or '.join(f for f, _ in IMAGES)}; set data_root to the "
            "folder with labels.csv, or make it with fpn-neck prepare_clothing"
        )
    pairs = []
    for photo in photos:
        number = photo.stem.removeprefix("img_")
        if _in_split(int(number), split):
            pairs.append((photo, root / MASKS / f"seg_{number}.png"))
    missing = [mask.name for _, mask in pairs if not mask.is_file()]
    if missing:
        raise ValueError(
            f"{root}: {len(missing)} photos have no mask in {MASKS}, e.g. {missing[0]}; run "
            "fpn-neck prepare_clothing on the folder to list them"
        )
    return pairs
