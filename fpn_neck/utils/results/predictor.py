"""One interface for every model: photos in, results out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fpn_neck.utils.photo_files import find_photos
from fpn_neck.utils.photos import PhotoError, highest_value, lies_on_black, rgb_pixels
from fpn_neck.utils.results.folder import is_result
from fpn_neck.utils.results.result import Result
from fpn_neck.utils.values import check_whole

Photo = Path | np.ndarray  # a file; or uint8 (H, W, 3) in RGB, (H, W) in grey
_PLAIN_MODES = ("RGB", "L")


class Predictor(ABC):
    """A trained model on photos.

    Attributes:
        classes: names of the labels.
    """

    classes: tuple[str, ...]

    @abstractmethod
    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        """Predict photos together; a result for each.

        Raises:
            PhotoError: a photo cannot be read.
        """

    def __call__(self, photos: Any, *, batch: int = 1) -> Any:
        """Predict a photo, or many.

        Args:
            photos: a file; an array, uint8 (H, W, 3) in RGB or (H, W) in grey; a PIL image, whose
                pixels are taken as they are; a folder; or a list of these.
            batch: number of photos that the model gets at a time. Only photos of one size run
                together.

        Returns:
            A `Result` for one photo; for a folder or list, a list of them in its order (a folder's
            photos are sorted).

        Raises:
            TypeError, ValueError: what is given is not a photo, or a PIL image of no known range
                (mode I or F). A folder has none.
            PhotoError: a photo cannot be read.
        """
        check_whole("batch", batch, 1)
        is_one = _is_one(photos)
        found = [photo for one in ([photos] if is_one else photos) for photo in _photos(one)]
        groups = batches(found, batch)
        results = [result for group in groups for result in self._predict_or_name(group)]
        return results[0] if is_one and not _is_folder(photos) else results

    def _predict_or_name(self, photos: list[Photo]) -> list[Result]:
        """`predict`, whose errors name the photo."""
        try:
            return self.predict(photos)
        except PhotoError as e:
            if len(photos) > 1:
                return [result for photo in photos for result in self._predict_or_name([photo])]
            if isinstance(photos[0], Path) and str(photos[0]) not in str(e):
                raise PhotoError(f"{photos[0]}: {e}") from e
            raise


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one of what is left."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _is_one(photos: Any) -> bool:
    listed = isinstance(photos, Iterable) and not isinstance(photos, (bytes, Mapping))
    return not listed or isinstance(photos, (str, Path, np.ndarray, Image.Image))


def _is_folder(photo: Any) -> bool:
    return isinstance(photo, (str, Path)) and photo != "" and Path(photo).is_dir()


def _photos(given: Any) -> list[Photo]:
    if _is_folder(given):
        return list(find_photos([str(given)], is_result).photos)
    if isinstance(given, (str, Path)):
        if given == "" or not Path(given).exists():
            raise FileNotFoundError(f"photo {str(given)!r}: no such file or folder")
        return [Path(given)]
    if isinstance(given, Image.Image):
        if not given.width * given.height:
            raise ValueError(f"a photo is {given.width}x{given.height} px: it has no pixels")
        if given.mode in _PLAIN_MODES:
            return [np.asarray(given)]
        return [rgb_pixels(given, highest_value(given), on_black=lies_on_black(given))]
    if not isinstance(given, np.ndarray):
        raise TypeError(
            f"a photo is a {type(given).__name__}: give a path, a folder, a PIL image, or an array "
            "uint8 (H, W, 3) in RGB"
        )
    is_picture = given.ndim == 2 or given.ndim == 3 and given.shape[2] == 3
    if given.dtype != np.uint8 or not is_picture or not given.size:
        raise ValueError(
            f"a photo is an array {given.dtype} {given.shape}: expected uint8 (H, W, 3) in RGB, "
            "0 to 255, or (H, W) in grey"
        )
    return [np.ascontiguousarray(given)]  # a flipped view has negative strides
