"""Exported models on photos, by ONNX Runtime; needs numpy and pillow, and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpn_neck.export.metadata import metadata_in
from fpn_neck.utils.photos import name_of, pixels_of
from fpn_neck.utils.results.options import SCORE_THR
from fpn_neck.utils.results.predictor import Photo, Predictor
from fpn_neck.utils.results.result import Result

_ROWS = 128  # of a map resized at a time


class ExportedModel(Predictor):
    """A file of ``fpn-neck export --format onnx``, on photos; each runs on its own.

    Args:
        path: the ONNX file.
        score_thr: see `fpn_neck.utils.results.arrays.Arrays`.

    Attributes:
        metadata: see `fpn_neck.export.metadata.Metadata`.
        classes: names of the labels.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: ONNX Runtime is not installed.
        ValueError: it is no ONNX file, or not of a segmenter or detector, or of this package.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score_thr: float = SCORE_THR,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self._session = open_session(path)
        entries = self._session.get_modelmeta().custom_metadata_map
        self.metadata = metadata_in(entries, path)
        if self.metadata.kind == "features":
            raise ValueError(f"{path} gives feature maps, which are no prediction for a photo")
        (images,) = self._session.get_inputs()
        layout = slice(1, 3) if self.metadata.preprocess else slice(2, 4)
        self._size: list[Any] = images.shape[layout]  # names where it is free
        self.classes, self._score_thr = self.metadata.classes, score_thr
        self._names = [output.name for output in self._session.get_outputs()]

    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        """See `Predictor.predict`.

        Raises:
            ValueError: the photo's size is not the one of the export.
        """
        return [self._predict(photo) for photo in photos]

    def _predict(self, photo: Photo) -> Result:
        pixels = pixels_of(photo)
        height, width = pixels.shape[:2]
        size = self.metadata.resized(height, width)
        if all(isinstance(n, int) for n in self._size) and tuple(self._size) != size:
            raise ValueError(
                f"the model takes {self._size[0]}x{self._size[1]} px, the photo becomes "
                f"{size[0]}x{size[1]}; export the model with --dynamic"
            )
        found = self._session.run(None, {"images": self._images(resize(pixels, size))})
        outputs = dict(zip(self._names, found, strict=True))
        if self.metadata.kind == "segmentation":
            arrays: dict[str, Any] = {"labels": self._labels(outputs, (height, width))}
        else:
            arrays = self._objects(outputs, (height, width), size)
        return Result(
            pixels,
            self.classes,
            self.metadata.palette,
            photo=name_of(photo),
            first_value=self.metadata.first_value,
            score_thr=self._score_thr,
            **arrays,
        )

    def _objects(
        self, outputs: dict[str, np.ndarray], size: tuple[int, int], of_input: tuple[int, int]
    ) -> dict[str, Any]:
        """Boxes in px of the photo, of this size, from those in the model's input."""
        scale = np.array([size[1] / of_input[1], size[0] / of_input[0]] * 2, np.float32)
        arrays = {
            "boxes": outputs["boxes"] * scale,
            "scores": outputs["scores"],
            "class_ids": outputs["labels"],
        }
        if "masks" in outputs:
            masks, threshold = outputs["masks"], self.metadata.threshold
            if masks.ndim == 4:  # torchvision's, at the size of the input
                arrays["masks"] = nearest(masks[:, 0] >= threshold, size)
            else:
                arrays["masks"] = paste(masks, arrays["boxes"], size, threshold)
        return arrays

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> what the model takes."""
        if self.metadata.preprocess:
            return pixels[None]
        ordered = pixels[..., ::-1] if self.metadata.channels == "BGR" else pixels
        mean, std = (np.array(x, np.float32) for x in (self.metadata.mean, self.metadata.std))
        return np.ascontiguousarray(((ordered - mean) / std).transpose(2, 0, 1)[None])

    def _labels(self, outputs: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Labels at the photo's size; those that the model gives are taken from the nearest."""
        if self.metadata.labels:
            return nearest(outputs["labels"][0], size)
        logits = outputs["logits"][0].transpose(1, 2, 0)
        labels = np.empty(size, np.int64)
        for start in range(0, size[0], _ROWS):  # logits of a whole photo may take gigabytes
            rows = range(start, min(start + _ROWS, size[0]))
            strip = _interpolate(logits, size, rows, self.metadata.align_corners)
            labels[rows.start : rows.stop] = self._decide(strip)
        return labels

    def _decide(self, logits: np.ndarray) -> np.ndarray:
        """Logits (..., K) -> labels (...)."""
        if logits.shape[-1] > 1:
            return logits.argmax(-1)
        return 1 / (1 + np.exp(-logits[..., 0].clip(-80))) > self.metadata.threshold  # no overflow


def open_session(path: Path) -> Any:
    """ONNX Runtime's session of a file, on the CPU.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: it is no ONNX file.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as e:
        raise ImportError(
            f"{path} needs the package onnxruntime: pip install 'fpn_neck[export]'"
        ) from e
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as e:  # of its own types
        raise ValueError(f"{path}: ONNX Runtime can't read it ({e})") from e


def nearest(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., h, w) -> (..., *size), of the nearest pixel."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int)
        for n, m in zip(size, maps.shape[-2:], strict=True)
    )
    return maps[..., rows[:, None], columns]


def paste(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float
) -> np.ndarray:
    """Put the masks of boxes into the photo, as mmdet's `_do_paste_mask`.

    Args:
        masks: probabilities, float (n, h, w).
        boxes: float (n, 4), px of the photo.
        size: (H, W) of the photo.

    Returns:
        bool (n, H, W).
    """
    result = np.zeros((len(masks), *size), bool)
    for whole, mask, (left, top, right, bottom) in zip(result, masks, boxes, strict=True):
        # Outside of its box a mask is zero.
        rows, upper, lower, down = _inside(top, bottom, mask.shape[0], size[0])
        columns, before, after, across = _inside(left, right, mask.shape[1], size[1])
        x = np.pad(mask, 1)
        lines = x[upper] * (1 - down)[:, None] + x[lower] * down[:, None]
        values = lines[:, before] * (1 - across) + lines[:, after] * across
        whole[rows, columns] = values >= threshold
    return result


def _inside(
    low: float, high: float, cells: int, length: int
) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels between two sides of a box, the cells of a padded mask around each, and the weight."""
    places = slice(max(0, int(low)), min(length, int(np.ceil(high))))
    centres = np.arange(places.start, places.stop) + 0.5
    at = np.clip((centres - low) / max(high - low, 1e-6) * cells + 0.5, 0, cells + 1)
    first = np.minimum(at.astype(np.int64), cells)
    return places, first, first + 1, (at - first).astype(np.float32)


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize of uint8 (H, W, C) to (*size, C), by OpenCV's whole numbers.

    Hardly any value differs from OpenCV's, and then by 1.
    """
    if pixels.shape[:2] == size:
        return pixels
    left, right, across = _cells(pixels.shape[1], size[1], np.arange(size[1]))
    before, after = _weights(across)
    result = np.empty((*size, pixels.shape[2]), np.uint8)
    for start in range(0, size[0], _ROWS):
        rows = np.arange(start, min(start + _ROWS, size[0]))
        top, bottom, down = _cells(pixels.shape[0], size[0], rows)
        sums = [
            ((x[:, left] * before[:, None] + x[:, right] * after[:, None]) >> 4)
            * weight[:, None, None]
            >> 16
            for x, weight in zip((pixels[top], pixels[bottom]), _weights(down), strict=True)
        ]
        result[rows] = (sums[0] + sums[1] + 2) >> 2
    return result


def _weights(second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of both cells, in whole numbers, as OpenCV's INTER_RESIZE_COEF_BITS has them."""
    one = np.float32(1 << 11)
    return np.rint((1 - second) * one).astype(np.int32), np.rint(second * one).astype(np.int32)


def _interpolate(
    x: np.ndarray, size: tuple[int, int], rows: range, align_corners: bool = False
) -> np.ndarray:
    """Some rows of the bilinear resize of (h, w, C) to (*size, C), float32."""
    top, bottom, down = _cells(x.shape[0], size[0], np.arange(rows.start, rows.stop), align_corners)
    left, right, across = _cells(x.shape[1], size[1], np.arange(size[1]), align_corners)
    lines = x[top] * (1 - down)[:, None, None] + x[bottom] * down[:, None, None]
    return lines[:, left] * (1 - across)[:, None] + lines[:, right] * across[:, None]


def _cells(
    cells: int, length: int, places: np.ndarray, align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two cells that every place lies between, and the weight of the second one."""
    if align_corners:
        at = places * ((cells - 1) / max(1, length - 1))
    else:
        at = np.maximum((places + 0.5) * (cells / length) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), cells - 1)
    return first, np.minimum(first + 1, cells - 1), (at - first).astype(np.float32)
