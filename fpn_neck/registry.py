"""mmengine's entry to this package.

mmengine imports ``<scope>.registry`` when it first meets a ``type='<scope>.<name>'``. So
``type='fpn_neck.FPN'`` works in the config of every framework without ``custom_imports``.
"""

from fpn_neck.mm.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    STRATEGIES,
    TRANSFORMS,
)

__all__ = [
    "DATASETS",
    "HOOKS",
    "METRICS",
    "MODELS",
    "MODEL_WRAPPERS",
    "STRATEGIES",
    "TRANSFORMS",
]
