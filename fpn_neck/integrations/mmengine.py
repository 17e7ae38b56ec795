"""What any mmengine framework can name; which classes its checkpoints may hold."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from fpn_neck.fpn import FPN
from fpn_neck.integrations import hooks  # noqa: F401 (registers)
from fpn_neck.losses import DiceLoss
from fpn_neck.registry import MODELS

MODELS.register_module(module=FPN)
MODELS.register_module(module=DiceLoss)
if find_spec("timm"):
    from fpn_neck.integrations.timm import TimmBackbone

    MODELS.register_module(module=TimmBackbone)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine 0.10 itself writes.

    Its message hub stores HistoryBuffer objects and numpy arrays of numbers; these classes only
    hold data. Everything else stays refused.
    """
    reconstruct = np.array(0.0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u1", "?")]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, reconstruct, scalar, *dtypes]
    )


# torch 2.6 made weights_only the default, under which mmengine can't read its own checkpoints.
allow_mmengine_checkpoints()
