"""Feature Pyramid Network neck and segmentation head; needs torch only."""

from fpn_neck.losses import CrossEntropyLoss, DiceLoss
from fpn_neck.mm import checkpoint_reader, mmcv_ops
from fpn_neck.models.fpn import FPN
from fpn_neck.models.seg_head import SegHead
from fpn_neck.models.segmenter import Segmenter

__version__ = "0.1.0"

# mmdet and mmseg import mmcv's compiled operators; where mmcv was installed without them, they are
# found here. Nothing is loaded by this line, and a compiled extension always wins.
mmcv_ops.install()

# mmengine 0.10 cannot read its own checkpoints on torch 2.6 and later. Nothing is loaded here.
checkpoint_reader.read_files_safely()

__all__ = ["FPN", "CrossEntropyLoss", "DiceLoss", "SegHead", "Segmenter", "__version__"]
