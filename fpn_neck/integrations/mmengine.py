"""What any mmengine framework can name; which classes its checkpoints may hold."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from fpn_neck.fpn import FPN
from fpn_neck.integrations import hooks  # noqa: F401 (registers)
from fpn_neck.layers import CONVS
from fpn_neck.losses import DiceLoss
from fpn_neck.registry import MODELS

MODELS.register_module(module=FPN)
MODELS.register_module(module=DiceLoss)
if find_spec("mmcv"):
    from mmcv.cnn import ConvAWS2d, ConvWS2d
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    CONVS |= {
        "ConvWS": ConvWS2d,
        "ConvAWS": ConvAWS2d,
        "DCN": DeformConv2dPack,
        "DCNv2": ModulatedDeformConv2dPack,
    }
if find_spec("timm"):
    from fpn_neck.integrations.timm import TimmBackbone

    MODELS.register_module(module=TimmBackbone)


def _history_method(cls: type, name: str) -> Callable:
    """What ``getattr`` may do inside a checkpoint: name HistoryBuffer's statistics."""
    if cls is not HistoryBuffer or name not in ("mean", "min", "max", "current"):
        raise UnpicklingError(f"a checkpoint may not look up {name!r} of {cls!r}")
    return getattr(cls, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine 0.10 itself writes.

    Its message hub holds HistoryBuffer objects, numpy arrays of numbers, and references to
    HistoryBuffer's own statistics. Everything else stays refused.
    """
    reconstruct = np.array(0.0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(t)) for t in ("f8", "f4", "i8", "i4", "u1", "?")]
    named = [(_history_method, "builtins.getattr")]
    for core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
        named += [
            (reconstruct, f"{core}.multiarray._reconstruct"),
            (scalar, f"{core}.multiarray.scalar"),
        ]
    torch.serialization.add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, *dtypes, *named])


# torch 2.6 made weights_only the default, under which mmengine can't read its own checkpoints.
allow_mmengine_checkpoints()
