"""What mmengine can't build of a config, in one line that names the part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Any

from mmengine.config import Config

_BUILDERS = ("mmengine.registry.build_functions", "mmengine.runner.")


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Explain what comes out of building a part; errors of training steps pass unchanged.

    Raises:
        ValueError: names the innermost part of the config that can't be built, and the reason.
    """
    try:
        yield
    except Exception as e:  # constructors raise anything
        frames = [frame for frame, _ in walk_tb(e.__traceback__) if _builds(frame)]
        if not frames:
            raise
        parts = [part for frame in reversed(frames) if (part := _part(frame, cfg))]
        raise ValueError(f"config: {parts[0] if parts else 'its parts'}: {_sentence(e)}") from e


def _builds(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return module.startswith(_BUILDERS) and frame.f_code.co_name.startswith("build_")


def _part(frame: FrameType, cfg: Config) -> str | None:
    """Where the settings stand that this function builds."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    settings = [frame.f_locals.get(name) for name in names]
    found = [value for value in settings if isinstance(value, dict) and value]
    if not found:
        return None
    kind = found[0].get("type")
    same = [(name, part) for name, part in _dicts("", cfg) if part.get("type") == kind]
    alike = [sum(part.get(k) == v for k, v in found[0].items()) for _, part in same]
    place = same[alike.index(max(alike))][0] if same else None
    return place if kind is None or place is None else f"{place} (type {_name(kind)})"


def _dicts(name: str, value: Any) -> Iterator[tuple[str, Mapping]]:
    if isinstance(value, (Mapping, Config)):
        if name:
            yield name, value
        inner = value.items()
    else:
        inner = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, part in inner:
        yield from _dicts(f"{name}.{key}" if name else str(key), part)


def _name(kind: Any) -> str:
    return repr(kind) if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _sentence(error: Exception) -> str:
    """Its first one, without the advice and the links that mmengine's registries add."""
    # A KeyError's text is in quotes.
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    return text.partition(" Please check whether")[0] or type(error).__name__
