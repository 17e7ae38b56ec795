"""Clothing Co-Parsing: its layout, labels and split; `check` and `prepare` work on its files."""

from fpn_neck.datasets.clothing.layout import (
    CLASSES,
    IMAGES,
    MASKS,
    PALETTE,
    SPLITS,
    find_pairs,
    split_of,
)

__all__ = ["CLASSES", "IMAGES", "MASKS", "PALETTE", "SPLITS", "find_pairs", "split_of"]
