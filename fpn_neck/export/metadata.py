"""What an exported file says of its model, so that a photo and the file are enough to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

KEY = "fpn_neck"  # of the entry in ONNX's metadata_props
SCHEMA = 1
DEFAULT_SIZE = (512, 512)  # px, of a model whose photos keep their size
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # suffixes of the files
KINDS = ("segmentation", "detection", "features")


@dataclass(frozen=True)
class Metadata:
    """The facts of a model, as JSON in the file.

    Attributes:
        kind: one of `KINDS`.
        mean, std: of the images, per channel, in pixel values 0..255.
        channels: 'RGB' or 'BGR', the order in which the model takes them, also of mean and std.
        preprocess: True: the input is uint8 (N, H, W, 3), RGB, and the file normalises it. False:
            it is float32 (N, 3, H, W), normalised.
        fit: (long, short) sides in px that a photo is fitted into, its ratio kept.
        exact: (width, height) in px of every photo; neither of both: a photo keeps its size.
        classes, palette: name and RGB of every label.
        labels: a segmenter gives labels (N, H, W); else logits (N, K, H, W).
        threshold: for one logit, of the probability of label 1; for masks of objects, of a
            pixel's probability.
        align_corners: how logits are resized to the photo's size.
        ignore_index: the label of pixels that training left out.
        first_value: what the data set's masks hold for class 0.
    """

    kind: str
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "RGB"
    preprocess: bool = False
    fit: tuple[float, float] | None = None
    exact: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, ...], ...] = ()
    labels: bool = False
    threshold: float = 0.5
    align_corners: bool = False
    ignore_index: int | None = None
    first_value: int = 0

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """What `to_json` wrote.

        Raises:
            ValueError: the text is of another schema or kind, incomplete, or has other entries.
        """
        try:
            content = json.loads(text)
            schema, kind = content.pop("schema"), content["kind"]
            if schema != SCHEMA:
                raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
            if kind not in KINDS:
                raise ValueError(f"kind {kind!r}, expected one of {', '.join(KINDS)}")
            unknown = set(content) - {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"unknown entries {', '.join(sorted(unknown))}")
            return cls(**{key: _tuples(value) for key, value in content.items()})
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"incomplete: {e}") from e

    @property
    def example_size(self) -> tuple[int, int]:
        """(height, width) in px of the export's example."""
        if self.exact:
            return self.exact[1], self.exact[0]
        if self.fit:
            return int(min(self.fit)), int(max(self.fit))
        return DEFAULT_SIZE

    def resized(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width in px that a photo of this size has in the model, times a scale."""
        if self.exact:
            width, height = self.exact
        elif self.fit:
            scale *= min(max(self.fit) / max(height, width), min(self.fit) / min(height, width))
        # As mmcv's rescale_size.
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def metadata_in(entries: Mapping[str, str], path: Any) -> Metadata:
    """Of an ONNX file's ``metadata_props``.

    Raises:
        ValueError: `fpn-neck export` did not write the file, or another version did.
    """
    if KEY not in entries:
        raise ValueError(f"{path}: not written by fpn-neck export: it has no metadata {KEY!r}")
    try:
        return Metadata.from_json(entries[KEY])
    except ValueError as e:
        raise ValueError(f"{path}: its metadata can't be read ({e}); export it again") from e


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
