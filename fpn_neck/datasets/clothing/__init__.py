"""Clothing Co-Parsing: its layout, labels and split; `check` and `prepare` work on its files."""

from fpn_neck.datasets.clothing.layout import (
    CLASSES,
    IMAGES,
    MASKS,
    PALETTE,
    SPLITS,
    SUPER_CLASSES,
    SUPER_OF,
    SUPER_PALETTE,
    find_pairs,
    half_of,
    split_of,
)

__all__ = [
    "CLASSES",
    "IMAGES",
    "MASKS",
    "PALETTE",
    "SPLITS",
    "SUPER_CLASSES",
    "SUPER_OF",
    "SUPER_PALETTE",
    "find_pairs",
    "half_of",
    "split_of",
]
