"""The door through which mmengine finds this package: it imports ``<scope>.registry``.

It does so the first time it meets a ``type='fpn_neck.<name>'``. That is why
``type='fpn_neck.FPN'`` works in every framework's config without ``custom_imports``.
"""

from fpn_neck.mm.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    STRATEGIES,
)

__all__ = ["DATASETS", "HOOKS", "METRICS", "MODELS", "MODEL_WRAPPERS", "STRATEGIES"]
