"""Generated scenes for semantic and instance segmentation.

Flat, vivid objects of six outlines lie on a muted, textured ground and cover each other in part.
Only the outline tells the class: colour, texture, rotation, size, light and blur are random. So a
network has to recognise shapes, and on every pyramid level, since the objects' longest sides are
log-uniform from 8 to 256 px.

Every annotated object follows three rules:

* An annotation holds the *visible* pixels. A later object hides an earlier one. A drop shadow
  belongs to no mask; a pixel of the antialiased rim does if the object covers half of it.
* At least ``MIN_VISIBLE`` of an outline's area stays visible. What lies outside the picture counts
  as hidden, and at most ``MAX_OUTSIDE`` of the height or width lies there. An object whose place
  would break this rule gets another place, or is left out. It is never painted without being
  annotated, so labels, masks and picture always agree.
* When an object is painted, its colours differ by at least ``MIN_CONTRAST`` (Euclidean distance
  in 8-bit RGB) from those at some 32 places under its rim, in light and in shade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fpn_neck.utils.values import check_whole

__all__ = ["CLASSES", "PALETTE", "Instance", "Scene", "check_size", "make_scene"]

CLASSES = ("background", "circle", "square", "triangle", "star", "ring", "cross")
PALETTE = [
    [40, 40, 40], [230, 60, 60], [60, 130, 230], [250, 190, 40],
    [160, 80, 200], [60, 180, 90], [240, 130, 190],
]  # fmt: skip

VERSION = 1  # of the drawing: raise it when the same seed gives other pictures
OBJECTS = (3, 9)  # tried per scene; an object for which no place is found is left out
MIN_SIZE = 64  # px, of a picture
SIDES = (8.0, 256.0)  # px, longest side of the upright box around a whole outline
MIN_VISIBLE = 0.75
MAX_OUTSIDE = 0.15  # of the height and of the width of an object, beyond the picture's edge
MIN_CONTRAST = 80.0
SHADOW = 0.4  # of the light that the darkest part of a drop shadow takes away

_PLACES = 20  # positions tried for one object


@dataclass(frozen=True)
class Instance:
    """One object as far as it can be seen.

    Attributes:
        category_id: index into ``CLASSES``, at least 1.
        bbox: ``(x, y, w, h)`` in px, tight around ``mask``, as in COCO.
        mask: bool (H, W), the visible pixels.
        full_area: px of the whole outline, with hidden ones and those outside the picture.
    """

    category_id: int
    bbox: tuple[int, int, int, int]
    mask: np.ndarray
    full_area: int


@dataclass(frozen=True)
class Scene:
    """A picture with its annotations.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W), index into ``CLASSES``.
        instances: in painting order: a later one lies on top.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: list[Instance]


# ---------------------------------------------------------------------------------- textures


def _resize(field: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR))


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise in [0, 1], float32 (H, W): octaves from 1/64 of the size up to 2 px."""
    persistence, gain = rng.uniform(0.4, 0.75), 1.0
    field = np.zeros((2, 2), np.float32)
    for shift in range(6, 0, -1):
        shape = max(2, height >> shift), max(2, width >> shift)
        field = _resize(field, *shape) + gain * rng.random(shape, np.float32)
        gain *= persistence
    field = _resize(field, height, width)
    low, high = field.min(), field.max()
    return (field - low) / (high - low)


def _ramp(height: int, width: int, angle: float) -> np.ndarray:
    """Distance in px along a direction, float32 (H, W), zero at the centre."""
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float32)[None, :] - (width - 1) / 2
    return np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y


def _texture(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """The noise mixed at random with a gradient and wavy stripes in [0, 1], float32 (H, W)."""
    height, width = noise.shape
    extent = math.hypot(height, width)
    ramp = _ramp(height, width, rng.uniform(0, math.tau))
    period = max(3.0, extent * math.exp(rng.uniform(math.log(0.02), math.log(0.3))))
    waves = noise * rng.uniform(0, 6)  # in place from here: allocating takes as long as computing
    waves += ramp * (math.tau / period)
    np.sin(waves, out=waves)
    sharpness = rng.uniform(0.5, 4)
    waves *= sharpness
    np.tanh(waves, out=waves)
    a, b, c = rng.dirichlet((0.7, 0.5, 0.5)).tolist()
    waves *= c / (2 * math.tanh(sharpness))
    ramp *= b / extent
    waves += ramp
    waves += a * noise
    waves += (b + c) / 2
    return waves


def _mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``a + (b - a) * weight`` with weight (H, W), of colours (3,) or pictures (3, H, W)."""
    a, b = (c if c.ndim == 3 else c.astype(np.float32)[:, None, None] for c in (a, b))
    mixed = (b - a) * weight
    mixed += a
    return mixed


def _background(rng: np.random.Generator, noises: list[np.ndarray]) -> np.ndarray:
    """Three muted colours blended by two textures, float32 (3, H, W) in 0..255."""
    greys = rng.uniform(40, 215) + rng.normal(0, (0, 45, 45))
    first, second, third = np.clip(greys[:, None] + rng.normal(0, 18, (3, 3)), 10, 245)
    return _mix(_mix(first, second, _texture(rng, noises[0])), third, 0.8 * noises[1])


# ----------------------------------------------------------------------------------- objects


def _polygon(radii: list[float], corners: int) -> np.ndarray:
    """Vertices (N, 2) on a full turn, the radii repeated in order."""
    turn = np.arange(corners) * (math.tau / corners)
    return np.resize(radii, corners)[:, None] * np.stack((np.cos(turn), np.sin(turn)), 1)


def _cross() -> np.ndarray:
    arm = 0.34  # half of an arm's width
    quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
    turns = [np.array(((c, s), (-s, c))) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([quarter @ turn for turn in turns])


_DISC = _polygon([1.0], 96)
# One or two polygons for each class; the second is a hole.
_OUTLINES = {
    "circle": (_DISC,),
    "square": (_polygon([1.0], 4),),
    "triangle": (_polygon([1.0], 3),),
    "star": (_polygon([1.0, 0.42], 10),),
    "ring": (_DISC, 0.55 * _DISC),
    "cross": (_cross(),),
}


def _coverage(category: int, side: float, angle: float, margin: int) -> Image.Image:
    """How much of each pixel an outline covers, 8-bit grey, with an empty margin around it."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [p @ np.array(((cos, sin), (-sin, cos))) for p in _OUTLINES[CLASSES[category]]]
    low, high = turned[0].min(0), turned[0].max(0)
    scale = side / (high - low).max()
    width, height = (np.ceil((high - low) * scale).astype(int) + 2 * margin).tolist()
    factor = 4 if side < 64 else 2  # supersampling; long edges need less
    canvas = Image.new("L", (width * factor, height * factor))
    for vertices, value in zip(turned, (255, 0), strict=False):
        placed = ((vertices - low) * scale + margin) * factor - 0.5
        ImageDraw.Draw(canvas).polygon(placed.ravel().tolist(), fill=value)
    return canvas.reduce(factor)


def _rim(picture: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Some 32 of the colours, float32 (3, N), on which an outline's edge will lie."""
    y, x = np.nonzero((cover > 0) & (cover < 255))
    some = slice(None, None, max(1, len(y) // 32))
    return picture[:, y[some], x[some]]


def _tones(rng: np.random.Generator, under: np.ndarray) -> np.ndarray | None:
    """Two tones of a vivid colour, float32 (2, 3), that stand out from those ``under`` (3, N)."""
    bright = rng.permuted(rng.uniform((15, 15, 150), (100, 250, 250), (24, 3)), axis=1)
    tones = np.stack((bright, bright * rng.uniform(0.8, 1, (24, 1))), 1).astype(np.float32)
    under = np.concatenate((under, under * np.float32(1 - SHADOW)), 1)
    distance = ((tones[..., None] - under) ** 2).sum(2).min((1, 2))
    good = np.flatnonzero(distance >= MIN_CONTRAST**2)
    return tones[good[0]] if good.size else None


class _Painter:
    """A scene being painted: the picture so far, and the object that each pixel belongs to."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.noises = [_noise(rng, height, width) for _ in range(2)]
        self.image = _background(rng, self.noises)  # (3, H, W): numpy is faster on planes
        self.owner = np.zeros((height, width), np.uint8)  # 0 or 1 + index of the object
        self.categories: list[int] = []
        self.full = np.zeros(0, np.int64)  # px of each object
        self.seen = np.zeros(0, np.int64)
        self.light = rng.uniform(0, math.tau)  # direction of the light
        self.depth = rng.uniform(0.03, 0.1)  # of an object's side: its height above the ground

    def add(self, category: int, side: float) -> None:
        """Paint one more object at a place that the rules allow, or leave it out."""
        lift = min(max(1.0, self.depth * side), 8.0)
        margin = math.ceil(2.5 * lift) + 2
        stamp = _coverage(category, side, self.rng.uniform(0, math.tau), margin)
        cover = np.asarray(stamp)  # 0..255
        full = np.count_nonzero(cover > 127)
        extent = np.array(cover.shape)
        outside = margin + (MAX_OUTSIDE * (extent - 2 * margin)).astype(int)
        for _ in range(_PLACES):
            y, x = self.rng.integers(-outside, np.array(self.owner.shape) - extent + outside + 1)
            there, here = _overlap(self.owner.shape, cover.shape, y, x)
            solid = cover[here] > 127
            inside = np.count_nonzero(solid)
            seen = self._seen_behind(self.owner[there][solid])
            if inside < MIN_VISIBLE * full or np.any(seen < MIN_VISIBLE * self.full):
                continue
            target = self.image[:, there[0], there[1]]
            tones = _tones(self.rng, _rim(target, cover[here]))
            if tones is not None:
                break
        else:
            return
        self._paint(target, stamp, here, tones, lift)
        self.categories.append(category)
        self.owner[there][solid] = len(self.categories)
        self.full = np.append(self.full, full)
        self.seen = np.append(seen, inside)

    def _seen_behind(self, hidden: np.ndarray) -> np.ndarray:
        return self.seen - np.bincount(hidden, minlength=len(self.full) + 1)[1:]

    def _paint(
        self,
        target: np.ndarray,
        stamp: Image.Image,
        here: tuple[slice, slice],
        tones: np.ndarray,
        lift: float,
    ) -> None:
        """Paint shadow, then the textured and lit surface, onto the view ``target`` (3, h, w)."""
        soft = np.asarray(stamp.filter(ImageFilter.BoxBlur(lift / 2)))
        dy, dx = (round(lift * f(self.light)) for f in (math.sin, math.cos))
        towards, away = (
            np.roll(soft, (sign * dy, sign * dx), (0, 1))[here] * np.float32(1 / 255)
            for sign in (-1, 1)
        )
        texture = _texture(self.rng, self._noise_patch(towards.shape))
        surface = _mix(tones[0], tones[1], texture)
        surface *= 1 + 0.25 * (away - towards)
        target *= 1 - SHADOW * towards
        surface -= target
        surface *= np.asarray(stamp)[here] * np.float32(1 / 255)
        target += surface

    def _noise_patch(self, shape: tuple[int, ...]) -> np.ndarray:
        noise = self.noises[self.rng.integers(len(self.noises))]
        y, x = self.rng.integers(np.subtract(noise.shape, shape) + 1)
        return noise[y : y + shape[0], x : x + shape[1]]

    def develop(self) -> np.ndarray:
        """The photograph, uint8 (H, W, 3): uneven light, grain and a little blur."""
        height, width = self.owner.shape
        slope = np.float32(self.rng.uniform(0, 0.5) / math.hypot(height, width))
        grain = self.rng.standard_normal((height, width), np.float32)
        lit = self.image * (1 + slope * _ramp(height, width, self.light))
        lit += np.float32(self.rng.uniform(0, 6)) * grain
        planes = np.clip(lit, 0, 255, out=lit).astype(np.uint8)
        picture = Image.merge("RGB", [Image.fromarray(plane) for plane in planes])
        blur = max(0.0, self.rng.uniform(-0.4, 0.4))  # half of the pictures are sharp
        return np.array(picture.filter(ImageFilter.BoxBlur(blur)) if blur else picture)


_Slices = tuple[slice, slice]


def _overlap(
    frame: tuple[int, ...], stamp: tuple[int, ...], y: int, x: int
) -> tuple[_Slices, _Slices]:
    """Slices of a frame and of a stamp that lies on it at (y, x), where the two overlap."""
    (top, bottom), (left, right) = (
        (max(0, a), min(n, a + m)) for a, n, m in zip((y, x), frame, stamp, strict=True)
    )
    there = slice(top, bottom), slice(left, right)
    return there, (slice(top - y, bottom - y), slice(left - x, right - x))


def make_scene(
    seed: int | tuple[int, ...] | np.random.Generator, size: tuple[int, int] = (256, 320)
) -> Scene:
    """Draw one scene.

    Args:
        seed: anything that ``numpy.random.default_rng`` takes; a generator is advanced.
        size: (H, W) in px, each at least 64. No object is longer than the shorter of the two.

    Raises:
        ValueError: a side of ``size`` is less than 64.
        TypeError: ``size`` is not two whole numbers.
    """
    height, width = check_size(size)
    rng = np.random.default_rng(seed)
    painter = _Painter(rng, height, width)
    shortest, longest = math.log(SIDES[0]), math.log(min(SIDES[1], height, width))
    for _ in range(rng.integers(*OBJECTS, endpoint=True)):
        category = int(rng.integers(1, len(CLASSES)))
        painter.add(category, math.exp(rng.uniform(shortest, longest)))
    categories = np.array([0, *painter.categories], np.uint8)
    instances = [
        _instance(painter.owner == index, painter.categories[index - 1], int(full))
        for index, full in enumerate(painter.full, 1)
    ]
    return Scene(painter.develop(), categories[painter.owner], instances)


def _instance(mask: np.ndarray, category: int, full: int) -> Instance:
    box = Image.fromarray(mask).getbbox()
    assert box  # at least MIN_VISIBLE of it is visible
    left, top, right, bottom = box
    return Instance(category, (left, top, right - left, bottom - top), mask, full)


def check_size(size: tuple[int, int]) -> list[int]:
    """[height, width] if ``size`` is two whole numbers, each at least 64; see `make_scene`."""
    try:
        height, width = size
    except (TypeError, ValueError):
        raise TypeError(f"size={size!r}: expected two whole numbers, (H, W)") from None
    return [check_whole("height", height, MIN_SIZE), check_whole("width", width, MIN_SIZE)]
