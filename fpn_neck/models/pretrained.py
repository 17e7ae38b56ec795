"""A segmenter in a folder: ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpn_neck.utils.files import check_folder, write_text, write_whole
from fpn_neck.weights.checkpoints import load_checkpoint, matching_weights

SCHEMA = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of pixels 0 to 255, RGB


@dataclass(frozen=True)
class Facts:
    """What weights do not say of a segmenter.

    Attributes:
        classes: a name for every label; two names if the model has one logit.
        mean, std: of every channel, for pixels 0 to 255: the model gets (pixel - mean) / std.
        palette: RGB of every class, 0 to 255; () if there are no colours.
        fit: (long, short) sides in px that `fpn_neck.load` fits a photo into, its ratio kept.
        exact: (width, height) in px of every photo. Neither of both: a photo keeps its size.
        first_value: what the data set's masks, and so the label PNGs, hold for label 0: 1 with
            mmseg's ``reduce_zero_label``.

    Raises:
        ValueError: a value breaks its rule; the message names it.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    palette: tuple[tuple[int, int, int], ...] = ()
    fit: tuple[float, float] | None = None
    exact: tuple[int, int] | None = None
    first_value: int = 0

    def __post_init__(self) -> None:
        _check_list("classes", self.classes, str, "names, one for each label")
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("mean", "std"):
            _check_list(name, getattr(self, name), Real, "numbers, one for each channel")
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        twice = [name for i, name in enumerate(self.classes) if name in self.classes[:i]]
        if twice:
            raise ValueError(f"classes={self.classes}: {twice[0]!r} stands twice")
        if len(self.mean) != len(self.std) or not all(math.isfinite(x) for x in self.mean):
            raise ValueError(f"mean={self.mean} and std={self.std}: expected a number per channel")
        if not all(0 < x < math.inf for x in self.std):
            raise ValueError(f"std={self.std}: expected numbers above 0")
        if not _is_palette(self.palette, len(self.classes)):
            raise ValueError(
                f"palette={self.palette!r}: expected three whole numbers 0 to 255 for each of "
                f"{len(self.classes)} classes, or ()"
            )
        object.__setattr__(self, "palette", tuple(tuple(map(int, one)) for one in self.palette))
        for name in ("fit", "exact"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _sides(name, getattr(self, name)))
        if not _is_byte(self.first_value) or self.first_value > 1:
            raise ValueError(f"first_value={self.first_value!r}: expected 0 or 1")
        object.__setattr__(self, "first_value", int(self.first_value))
        if self.fit and self.exact:
            raise ValueError(f"fit={self.fit} and exact={self.exact}: give one of both")


def _check_list(name: str, values: Any, kind: type, what: str) -> None:
    if not (
        _is_list(values)
        and values
        and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
    ):
        raise ValueError(f"{name}={values!r}: expected a list of {what}")


def _sides(name: str, values: Any) -> tuple[float, float]:
    kind: Any = Integral if name == "exact" else Real
    if not _is_list(values) or len(values) != 2 or not all(_is_side(n, kind) for n in values):
        what = "whole numbers" if name == "exact" else "numbers"
        raise ValueError(f"{name}={values!r}: expected two {what} of px above 0")
    return values[0], values[1]


def _is_side(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _is_palette(values: Any, count: int) -> bool:
    return _is_list(values) and (
        not values
        or len(values) == count
        and all(_is_list(one) and len(one) == 3 and all(map(_is_byte, one)) for one in values)
    )


def _is_byte(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= 255


def save(
    folder: Path,
    state_dict: Mapping[str, Tensor],
    architecture: Mapping[str, Any],
    facts: Facts,
    *,
    float16: bool = False,
) -> None:
    """Write the folder; each file is whole or as it was, and the weights come first.

    Args:
        architecture: arguments of `fpn_neck.Segmenter`, as JSON holds them.
        float16: see `fpn_neck.Segmenter.save_pretrained`.

    Raises:
        OSError: nothing can be written there.
        ValueError: an argument of the architecture is not plain data; a weight is too large for
            float16.
    """
    from safetensors.torch import save

    try:
        text = json.dumps(
            {"schema": SCHEMA, "architecture": architecture, **asdict(facts)}, indent=1
        )
    except TypeError as e:
        raise ValueError(f"the segmenter's arguments are not plain data: {e}") from e
    # Copies: safetensors takes no two names of one tensor.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state_dict.items()
    }
    if float16:
        tensors = {name: _in_float16(name, value) for name, value in tensors.items()}
    check_folder(folder)
    content = save(tensors)  # save_file makes a file that other users cannot read
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(content), sync=True)
    write_text(folder / CONFIG, text + "\n")


def _in_float16(name: str, value: Tensor) -> Tensor:
    """Convolutions and matrices; what has one dimension (biases, norms) is small and stays."""
    if not value.is_floating_point() or value.dim() < 2:
        return value
    half = value.half()
    if half.isinf().any():
        raise ValueError(f"{name} has a weight above 65504, which float16 does not hold")
    return half


def is_pretrained(folder: str | Path) -> bool:
    """Whether it is such a folder."""
    return (Path(folder) / CONFIG).is_file()


def read_config(folder: Path) -> tuple[dict[str, Any], Facts]:
    """The architecture and the facts.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: the file is not such a config, or of a newer schema.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; save_pretrained writes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if schema == SCHEMA:
            return _parts(content)
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is not what save_pretrained writes ({e!r})") from e
    raise ValueError(f"{path}: schema {schema!r}, and this version reads {SCHEMA}: update it")


def _parts(content: Mapping[str, Any]) -> tuple[dict[str, Any], Facts]:
    needed = {k: content[k] for k in ("classes", "mean", "std", "palette")}
    later = {k: content[k] for k in ("fit", "exact", "first_value") if k in content}
    facts = Facts(**needed, **later)
    architecture = content["architecture"]
    if not isinstance(architecture, dict):
        raise TypeError(f"architecture {architecture!r}: expected an object")
    return architecture, facts


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the folder's weights into a model.

    Raises:
        FileNotFoundError, ValueError: no such file, or weights of another model.
    """
    path = folder / WEIGHTS
    state = matching_weights(model.state_dict(), load_checkpoint(path), str(path))
    model.load_state_dict(state)


def normalised(photo: Tensor, facts: Facts) -> Tensor:
    """A photo, uint8 (H, W, C) -> the model's input, float32 (1, C, H, W)."""
    mean, std = (torch.tensor(x, device=photo.device) for x in (facts.mean, facts.std))
    return ((photo.float() - mean) / std).permute(2, 0, 1)[None].contiguous()
