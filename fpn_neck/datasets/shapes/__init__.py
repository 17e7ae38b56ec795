"""Generated scenes of simple shapes, with label maps and COCO boxes."""

from fpn_neck.datasets.shapes.scenes import CLASSES, PALETTE
from fpn_neck.datasets.shapes.write import SPLITS, write_shapes

__all__ = ["CLASSES", "PALETTE", "SPLITS", "write_shapes"]
