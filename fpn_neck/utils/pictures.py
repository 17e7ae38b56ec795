"""Pictures of label maps: overlays, and photo, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Palette = Sequence[Sequence[int]]
_LINE = 16  # px, height of a legend line
_GAP = 6
_PIXELS = 1 << 20  # mixed at a time
_ROWS = 256  # copied at a time
_WHITE = (255, 255, 255)


def overlay(photo: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Paint labels over the photo in grey: its own colours would change those of the legend.

    Args:
        photo: uint8 (H, W, 3), RGB.
        labels: integers (H, W); at those outside the palette (ignored pixels), the photo stays.
        palette: RGB, 0 to 255, per label.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: the sizes differ.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"photo of shape {photo.shape} and labels of shape {labels.shape} differ")
    result = np.empty_like(photo)
    step = max(1, _PIXELS // max(1, photo.shape[1]))
    for start in range(0, len(photo), step):  # intermediate arrays take 60 bytes a pixel
        rows = slice(start, start + step)
        result[rows] = _mix(photo[rows], labels[rows], palette)
    return result


def _mix(photo: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    grey = photo.mean(2, keepdims=True)
    known = ((labels >= 0) & (labels < len(palette)))[..., None]
    return np.round(np.where(known, 0.35 * grey + 0.65 * paint(labels, palette), photo))


def save_labels(labels: np.ndarray, path: Path) -> None:
    """Save labels (H, W) as a grey PNG whose values are the labels, 8 bit, or 16 above 255."""
    dtype = np.uint8 if labels.max(initial=0) <= 255 else np.uint16
    Image.fromarray(labels.astype(dtype)).save(path, format="PNG")


def paint(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Labels (H, W) in their colours, uint8 (H, W, 3); those outside the palette are white."""
    colours = np.vstack([np.asarray(palette, np.uint8), _WHITE]).astype(np.uint8)
    known = (labels >= 0) & (labels < len(palette))
    return colours[np.where(known, labels, len(palette))]


def side_by_side(
    photo: np.ndarray | None,
    maps: dict[str, np.ndarray],
    classes: Sequence[str],
    palette: Palette,
) -> Image.Image:
    """The photo, an overlay for each label map, and a legend of the labels in them.

    Args:
        photo: uint8 (H, W, 3), RGB; None paints only the label maps.
        maps: title -> labels (H, W), e.g. ``{'truth': ..., 'prediction': ...}``.
        classes, palette: name and RGB of every label.
    """
    if photo is None:
        panels = {title: paint(labels, palette) for title, labels in maps.items()}
    else:
        panels = {"photo": photo} | {t: overlay(photo, m, palette) for t, m in maps.items()}
    occurring = sorted(
        {int(v) for m in maps.values() for v in np.unique(m) if 0 <= v < len(classes)}
    )
    return _compose(panels, [(classes[i], tuple(palette[i])) for i in occurring])


def _compose(panels: dict[str, np.ndarray], legend: list[tuple[str, tuple]]) -> Image.Image:
    height, width = next(iter(panels.values())).shape[:2]
    font = ImageFont.load_default()
    legend_width = int(max((font.getlength(name) for name, _ in legend), default=0)) + 3 * _LINE
    left = (width + _GAP) * len(panels)
    canvas = Image.new(
        "RGB", (left + legend_width, max(height, _LINE * len(legend)) + _LINE), _WHITE
    )
    draw = ImageDraw.Draw(canvas)
    for i, (title, panel) in enumerate(panels.items()):
        x = i * (width + _GAP)
        draw.text((x + 2, 2), title, fill=0, font=font)
        for top in range(0, height, _ROWS):  # a large photo is not copied as a whole
            canvas.paste(Image.fromarray(panel[top : top + _ROWS]), (x, _LINE + top))
    for i, (name, colour) in enumerate(legend):
        y = _LINE * (i + 1)
        draw.rectangle((left, y + 2, left + _LINE - 4, y + _LINE - 2), fill=colour)
        draw.text((left + _LINE, y + 2), name, fill=0, font=font)
    return canvas
