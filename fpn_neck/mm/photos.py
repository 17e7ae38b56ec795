"""Photos as mmcv reads them, without those that would take all memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image

MOST_PIXELS = 100_000_000  # a file of 1 kB can declare ten times as many pixels
_TOO_LARGE = f"more than {MOST_PIXELS // 10**6} million px; cut the photo into parts, or reduce it"


def read_photo(path: Path) -> np.ndarray:
    """The photo, uint8 (H, W, 3) in BGR, turned as its EXIF tag says.

    Raises:
        ValueError: more than ``MOST_PIXELS``; the header says it, before anything is decoded.
        OSError, cv2.error: the photo cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise OSError("not a file")
    _check_pixels(_declared_size(path))
    photo = mmcv.imread(path)
    if photo is None:
        raise OSError("not a readable photo")
    _check_pixels(photo.shape[1::-1])
    return photo


def _declared_size(path: Path) -> tuple[int, int]:
    """(width, height) in the header; (0, 0) for the few formats that only OpenCV can read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise ValueError(_TOO_LARGE) from error
        except Exception:  # of any type
            return 0, 0
        with image:
            if image.format == "PNG":
                _verify(image)
            return image.size


def _verify(image: Image.Image) -> None:
    """Check a PNG file: OpenCV 5 allocates whatever length a part of it declares, up to 4 GB."""
    try:
        image.verify()
    except Exception as error:  # of any type
        raise OSError(f"not a readable photo: {error}") from error


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"{size[0]}x{size[1]} px, {_TOO_LARGE}")
