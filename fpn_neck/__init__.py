"""Feature Pyramid Network neck and segmentation head; needs torch alone."""

from fpn_neck._version import __version__
from fpn_neck.fpn import FPN
from fpn_neck.integrations import mmcv_ops
from fpn_neck.losses import CrossEntropyLoss, DiceLoss
from fpn_neck.seg_head import SegHead
from fpn_neck.segmenter import Segmenter

# mmdet and mmseg import mmcv's compiled operators; where mmcv was installed without them, they are
# found here. Nothing is loaded by this line, and a compiled extension always wins.
mmcv_ops.install()


__all__ = ["FPN", "CrossEntropyLoss", "DiceLoss", "SegHead", "Segmenter", "__version__"]
