"""Pictures of label maps: overlays, and photo, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Palette = Sequence[Sequence[int]]
_LINE = 16  # px, height of a legend line
_GAP = 6
_WHITE = (255, 255, 255)


def overlay(photo: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Paint labels over a photo; label 0, the background, only darkens it.

    Args:
        photo: uint8 (H, W, 3), RGB.
        labels: integers (H, W); those outside the palette (ignored pixels) leave the photo as is.
        palette: RGB, 0 to 255, per label.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: the sizes differ.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"photo of shape {photo.shape} and labels of shape {labels.shape} differ")
    colours = np.asarray(palette, np.float32)
    known = (labels >= 0) & (labels < len(colours))
    painted = colours[np.where(known, labels, 0)]
    opacity = np.where(labels == 0, 0.4, 0.65)[..., None] * known[..., None]
    return np.round(photo * (1 - opacity) + painted * opacity).astype(np.uint8)


def save_labels(labels: np.ndarray, path) -> None:
    """Save labels (H, W) as a grey PNG whose values are the labels, 8 bit, or 16 above 255."""
    dtype = np.uint8 if labels.max(initial=0) <= 255 else np.uint16
    Image.fromarray(labels.astype(dtype)).save(path)


def side_by_side(
    photo: np.ndarray,
    maps: dict[str, np.ndarray],
    classes: Sequence[str],
    palette: Palette,
) -> Image.Image:
    """The photo, an overlay per label map (title -> labels), and a legend of what occurs in them.

    Args:
        photo: uint8 (H, W, 3), RGB.
        maps: label maps (H, W), e.g. ``{'truth': ..., 'prediction': ...}``.
        classes, palette: name and RGB of every label.
    """
    panels = {"photo": photo} | {t: overlay(photo, m, palette) for t, m in maps.items()}
    height, width = photo.shape[:2]
    occurring = sorted({int(v) for m in maps.values() for v in np.unique(m) if v < len(classes)})
    legend = [(classes[i], tuple(palette[i])) for i in occurring]
    font = ImageFont.load_default()
    legend_width = int(max((font.getlength(name) for name, _ in legend), default=0)) + 3 * _LINE
    total = (width + _GAP) * len(panels) + legend_width
    canvas = Image.new("RGB", (total, max(height, _LINE * len(legend)) + _LINE), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, (title, panel) in enumerate(panels.items()):
        x = i * (width + _GAP)
        draw.text((x + 2, 2), title, fill=0, font=font)
        canvas.paste(Image.fromarray(panel), (x, _LINE))
    for i, (name, colour) in enumerate(legend):
        x, y = (width + _GAP) * len(panels), _LINE * (i + 1)
        draw.rectangle((x, y + 2, x + _LINE - 4, y + _LINE - 2), fill=colour)
        draw.text((x + _LINE, y + 2), name, fill=0, font=font)
    return canvas
