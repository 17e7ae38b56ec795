"""Pictures of label maps: overlays, and photo, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fpn_neck.utils.results.options import OPACITY

Palette = Sequence[Sequence[int]]
_LINE = 16  # px, height of a legend line, at least
_LINES = 40  # of the legend in the height of a large photo
_GAP = 6
_PIXELS = 1 << 20  # mixed at a time
_ROWS = 256  # copied at a time
_WHITE = (255, 255, 255)


def overlay(
    photo: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = OPACITY
) -> np.ndarray:
    """Paint labels over the photo in grey: its own colours would change those of the legend.

    Args:
        photo: uint8 (H, W, 3), RGB.
        labels: integers (H, W); at those outside the palette (ignored pixels), the photo stays.
        palette: RGB, 0 to 255, per label.
        opacity: of the colours, 0 to 1.

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
        result[rows] = _mix(photo[rows], labels[rows], palette, opacity)
    return result


def _mix(photo: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float) -> np.ndarray:
    grey = photo.mean(2, keepdims=True)
    known = ((labels >= 0) & (labels < len(palette)))[..., None]
    mixed = (1 - opacity) * grey + opacity * paint(labels, palette)
    return np.round(np.where(known, mixed, photo))


def save_labels(labels: np.ndarray, path: Path, palette: Palette | None = None) -> None:
    """Save labels (H, W) as a PNG whose values are the labels, 8 bit, or 16 bits grey above 255.

    Args:
        palette: RGB of the values 0, 1, ...; people see these colours in a file of 8 bits, and
            programs read the labels (PIL's mode P). None: grey.
    """
    is_small = labels.max(initial=0) <= 255 and len(palette or ()) <= 256
    image = Image.fromarray(labels.astype(np.uint8 if is_small else np.uint16))
    if palette and is_small:
        image.putpalette(bytes(np.asarray(palette, np.uint8).ravel()))
    image.save(path, format="PNG")


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """Colours for labels without any: neighbours differ much in hue."""
    hues = (i * 0.618034 % 1 for i in range(count))  # the golden ratio
    rgb = (hsv_to_rgb(hue, 0.9 - 0.3 * (i % 2), 0.95) for i, hue in enumerate(hues))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb]


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
    *,
    opacity: float = OPACITY,
    with_photo: bool = True,
) -> Image.Image:
    """The photo, an overlay for each label map, and a legend of the labels in them.

    Args:
        photo: uint8 (H, W, 3), RGB; None paints only the label maps.
        maps: title -> labels (H, W), e.g. ``{'truth': ..., 'prediction': ...}``.
        classes, palette: name and RGB of every label.
        opacity: of the overlays' colours, 0 to 1.
        with_photo: False leaves the photo itself out.
    """
    if photo is None:
        panels = {title: paint(labels, palette) for title, labels in maps.items()}
    else:
        panels = {t: overlay(photo, m, palette, opacity) for t, m in maps.items()}
        panels = ({"photo": photo} if with_photo else {}) | panels
    occurring = sorted(
        {int(v) for m in maps.values() for v in np.unique(m) if 0 <= v < len(classes)}
    )
    return _compose(panels, [(classes[i], tuple(palette[i])) for i in occurring])


def _compose(panels: dict[str, np.ndarray], legend: list[tuple[str, tuple]]) -> Image.Image:
    height, width = next(iter(panels.values())).shape[:2]
    line = line_height(height, width, len(legend) + 1)
    font = font_of(line)
    titles = max(font.getlength(title) for title in panels)
    step = max(width, int(titles) + 2) + _GAP  # of a small photo the title is wider
    legend_width = int(max((font.getlength(name) for name, _ in legend), default=0)) + 3 * line
    left = step * len(panels)
    canvas = Image.new("RGB", (left + legend_width, max(height, line * len(legend)) + line), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, (title, panel) in enumerate(panels.items()):
        x = i * step
        draw.text((x + 2, 2), title, fill=0, font=font)
        for top in range(0, height, _ROWS):  # a large photo is not copied as a whole
            canvas.paste(Image.fromarray(panel[top : top + _ROWS]), (x, line + top))
    for i, (name, colour) in enumerate(legend):
        y = line * (i + 1)
        draw.rectangle((left, y + 2, left + line - 4, y + line - 2), fill=colour)
        draw.text((left + line, y + 2), name, fill=0, font=font)
    return canvas


def line_height(height: int, width: int, lines: int = 1) -> int:
    """Height in px of a line of text beside a photo, which grows with the photo.

    Args:
        lines: that should fit into the photo's height.
    """
    wanted = max(height, width) // _LINES
    return max(_LINE, min(wanted, height // lines))


def font_of(line: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font for lines of this height."""
    return ImageFont.load_default() if line == _LINE else ImageFont.load_default(0.65 * line)
