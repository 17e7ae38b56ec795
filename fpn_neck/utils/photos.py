"""Photo files: refused before they take all memory, and read as RGB."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fpn_neck.utils.photo_files import SUFFIXES
from fpn_neck.utils.text import one_line

_FILTERS = threading.Lock()  # Python keeps one list of warning filters for all threads
MOST_PIXELS = 100_000_000  # a file of 1 kB can declare ten times as many pixels


class PhotoError(ValueError):
    """A photo cannot be read, or its file does not give what the pipeline needs."""


def read_photo(path: Path, most: int = MOST_PIXELS) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3), RGB, turned as its EXIF data say.

    Pixels are those of OpenCV, with which models are trained: of 16 bits the higher 8 are taken,
    and a TIFF with transparent pixels lies on black. (A CMYK JPEG may differ by 1.)

    Raises:
        PhotoError: more than ``most`` px (the header says it, before anything is decoded), or
            the photo cannot be read, or see `rgb_pixels`.
    """
    try:
        check_photo_file(path, most)
        # Pillow 12.3 maps the file of a name into memory, and of a turned TIFF with a wrong size.
        with path.open("rb") as file, Image.open(file) as image:
            turned = ImageOps.exif_transpose(image)
            return rgb_pixels(turned, highest_value(image), on_black=lies_on_black(image))
    except (MemoryError, PhotoError):
        raise
    except UnidentifiedImageError as e:
        raise PhotoError(not_readable(path)) from e
    except Exception as e:  # decoders raise anything
        raise PhotoError(one_line(e)) from e


def lies_on_black(image: Image.Image) -> bool:
    """Whether its colours are multiplied by its alpha: of a TIFF, as libtiff and OpenCV do it.

    Some TIFFs do not say what their fourth channel is. There it means nothing.
    """
    extra_samples = 338  # the tag
    return image.format == "TIFF" and extra_samples in getattr(image, "tag_v2", ())


def rgb_pixels(image: Image.Image, highest: int, *, on_black: bool = False) -> np.ndarray:
    """The pixels as uint8 (H, W, 3), RGB.

    Args:
        highest, on_black: of `highest_value` and `lies_on_black`; an image that was turned or
            copied has lost its format.

    Raises:
        PhotoError: the image holds numbers of no known range, or Lab colours.
    """
    if image.mode == "LAB":
        raise PhotoError("mode LAB: save it in RGB")
    if on_black and image.mode == "RGBA":
        return np.asarray(image.convert("RGBa"))[..., :3]
    if highest == 255:
        return np.asarray(image.convert("RGB"))
    if not highest:
        raise PhotoError(
            f"mode {image.mode}: numbers of no known range; save it with 8 or 16 bits for each "
            "channel"
        )
    grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def highest_value(photo: Image.Image) -> int:
    """White in a photo: 255, or 65535 with 16 bits for a grey pixel; 0 if it is unknown.

    Pillow's own conversion of 16 bits to 8 makes white of every value above 255.
    """
    sixteen_bits = photo.mode == "I" and photo.format == "PNG"  # by some versions of pillow
    if photo.mode.startswith("I;16") or sixteen_bits:
        return 65535
    return 0 if photo.mode in ("I", "F") else 255


def not_readable(path: Path) -> str:
    """What to say of a file that no decoder knows."""
    suffix = path.suffix.lower()
    if not suffix or suffix in SUFFIXES:  # a broken file
        return "not a readable photo"
    return f"not a readable photo: {suffix} is not decoded here; convert it to JPEG or PNG"


def check_photo_file(path: Path, most: int = MOST_PIXELS) -> None:
    """Refuse what is not a file, and a photo whose header declares more than ``most`` px.

    Raises:
        PhotoError: says which.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise PhotoError("not a file")
    if path.exists() and not path.stat().st_size:
        raise PhotoError("not a readable photo: the file is empty")
    check_pixels(_declared_size(path, most), most)


def pixels_of(photo: Path | np.ndarray) -> np.ndarray:
    """`read_photo` of a file; an array, RGB or grey (H, W), as (H, W, 3)."""
    if isinstance(photo, Path):
        return read_photo(photo)
    return photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)


def name_of(photo: Path | np.ndarray) -> str | None:
    """The path of a file; an array has none."""
    return None if isinstance(photo, np.ndarray) else str(photo)


def check_pixels(size: Sequence[int], most: int = MOST_PIXELS) -> None:
    """Refuse a (width, height) of more than ``most`` px."""
    if size[0] * size[1] > most:
        raise PhotoError(f"{size[0]}x{size[1]} px, {_too_large(most)}")


def _too_large(most: int) -> str:
    return f"more than {most // 10**6} million px; cut the photo into parts, or reduce it"


def _declared_size(path: Path, most: int) -> tuple[int, int]:
    """(width, height) in the header; (0, 0) for the few formats that only OpenCV can read."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise PhotoError(_too_large(most)) from error
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
        raise PhotoError(f"not a readable photo: {error}") from error
