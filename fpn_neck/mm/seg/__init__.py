"""This package in mmseg; importing it registers what mmseg's configs can name."""

from fpn_neck.mm.seg import datasets, head, metric, segmentor, transforms, tta  # noqa: F401 (register)
