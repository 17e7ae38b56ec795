"""Settings that weights do not show, compared with those that a checkpoint was trained with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fpn_neck.mm.config.in_checkpoint import literals
from fpn_neck.utils.text import first_few
from fpn_neck.utils.walk import dicts

# Settings of a model that change every output, and what they are if they are not given.
_SETTINGS = {"align_corners": False, "bgr_to_rgb": False, "rgb_to_bgr": False}
_STATISTICS = {"mean": None, "std": None}
_TRAINING_ONLY = "auxiliary_head"


def check_settings(
    model: Mapping[str, Any],
    meta: Any,
    checkpoint: str,
    *,
    allow_mismatch: bool,
    warn: Callable[[str], object] = warnings.warn,
) -> None:
    """Refuse a checkpoint that was trained with other settings than the config's.

    Args:
        model, meta: see `changed_settings`.
        checkpoint: its name, for the message.
        allow_mismatch: tell ``warn`` instead.

    Raises:
        ValueError: names the settings, both values and the remedy.
    """
    changes = changed_settings(model, meta)
    if not changes:
        return
    text = f"checkpoint {checkpoint} was trained with other settings: {changes}"
    if not allow_mismatch:
        raise ValueError(
            f"{text}; use its own config (test and predict take the config's with --allow-mismatch)"
        )
    warn(text)


def changed_settings(model: Mapping[str, Any], meta: Any) -> str:
    """Where a config's model differs from the one in a checkpoint, in one line; '' if nowhere.

    It compares ``align_corners`` of every part, and what the data preprocessor makes of a photo.
    mmengine saves a config as text, which is read here without being run. Without this text, or
    with a text that is more than literals, nothing is compared.

    Args:
        model: the config's ``model``; of one for test-time augmentation, the one inside is taken.
        meta: of the checkpoint.
    """
    trained = recorded_model(meta)
    if not isinstance(trained, dict):
        return ""
    before = dict(_settings(trained))
    inner = model.get("module")
    changes = [
        f"{name}={value!r} here, {before[name]!r} in training"
        for name, value in _settings(inner if isinstance(inner, Mapping) else model)
        if name in before and value != before[name]
    ]
    return first_few(changes)


def recorded_model(meta: Any) -> Any:
    """``model`` of the config whose text is in a checkpoint; None if it holds none."""
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    text = next((text for text in texts if isinstance(text, str)), "")
    try:
        return literals(text, "model").get("model")
    except ValueError:
        return None


def _settings(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of every setting, such as ``decode_head.align_corners``."""
    for place, part in dicts(model):
        if _TRAINING_ONLY in place:
            continue
        is_preprocessor = "data_preprocessor" in place[-1:]
        for key, default in (_SETTINGS | _STATISTICS if is_preprocessor else _SETTINGS).items():
            yield ".".join(map(str, ("model", *place, key))), _plain(part.get(key, default))


def _plain(value: Any) -> Any:
    """Lists and tuples of the same numbers are equal."""
    return list(value) if isinstance(value, (list, tuple)) else value
