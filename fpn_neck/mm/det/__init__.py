"""This package in mmdet; importing it registers what mmdet's configs can name."""

from fpn_neck.mm.det import (  # noqa: F401 (register)
    datasets,
    outline_labels,
    panoptic_head,
    panoptic_quality,
    pictures_hook,
)
