"""Overlays: labels with their legend, objects with boxes, masks, names and scores."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fpn_neck.utils.results.arrays import Arrays
from fpn_neck.utils.results.pictures import font_of, line_height
from fpn_neck.utils.results.pictures import side_by_side as label_picture

_GAP = 6  # px between two pictures
_DARK = 140  # mean of a colour, above which black text is read better than white


def draw(result: Arrays, *, side_by_side: bool | None, opacity: float) -> Image.Image:
    """See `fpn_neck.utils.results.result.Result.draw`."""
    result = result.shown
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}: expected 0 (only the photo) to 1 (only the colours)")
    if result.labels is not None:
        return label_picture(
            result.image,
            {"prediction": _with_borders(result.labels, result.segment_map, len(result.palette))},
            result.classes,
            result.palette,
            opacity=opacity,
            with_photo=side_by_side is None or side_by_side,
        )
    picture = _draw_objects(result, opacity)
    return _beside(result.image, picture) if side_by_side else picture


def _with_borders(labels: np.ndarray, segments: np.ndarray | None, outside: int) -> np.ndarray:
    """Labels in which the border between two segments shows the photo."""
    if segments is None:
        return labels
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    return np.where(border, outside, labels)


def _draw_objects(result: Arrays, opacity: float) -> Image.Image:
    """The photo with the objects, the best on top."""
    pixels = np.array(result.image)
    colours = [tuple(int(x) for x in result.palette[i]) for i in _ints(result.class_ids)]
    if result.masks is not None:
        for mask, colour in zip(result.masks[::-1], colours[::-1], strict=True):
            pixels[mask] = np.round((1 - opacity) * pixels[mask] + opacity * np.array(colour))
    picture = Image.fromarray(pixels)
    pen, line = ImageDraw.Draw(picture), line_height(*result.size)
    font = font_of(line)
    boxes = [] if result.boxes is None else result.boxes.tolist()
    scores = [] if result.scores is None else result.scores.tolist()
    found = list(zip(boxes, scores, _ints(result.class_ids), colours, strict=True))
    for (x1, y1, x2, y2), score, label, colour in reversed(found):
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=max(1, line // 8))
        text = f"{result.classes[label]} {score:.2f}"
        top = max(0, y1 - line)
        pen.rectangle((x1, top, x1 + font.getlength(text) + 4, top + line), fill=colour)
        dark = sum(colour) / 3 > _DARK
        pen.text((x1 + 2, top + 2), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
    return picture


def _ints(values: np.ndarray | None) -> list[int]:
    return [] if values is None else values.tolist()


def _beside(photo: np.ndarray, picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (2 * picture.width + _GAP, picture.height), (255, 255, 255))
    canvas.paste(Image.fromarray(np.ascontiguousarray(photo)), (0, 0))
    canvas.paste(picture, (picture.width + _GAP, 0))
    return canvas
