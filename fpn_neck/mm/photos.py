"""Photos as a config's own transforms load them, without those that would take all memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import getmro, isclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

from fpn_neck.mm.config.types import type_class
from fpn_neck.utils.photos import PhotoError, check_photo_file, check_pixels, not_readable
from fpn_neck.utils.text import one_line

_ANNOTATIONS = re.compile(r"Load\w*Annotations?")  # mmcv's, mmseg's and mmdet's classes

Transform = Callable[[dict], Any]


# --------------------------------------------------------------------------------- the pipeline


def without_annotations(pipeline: Sequence[dict], scope: str | None) -> list[dict]:
    """A pipeline's configs without the transforms that load annotations, whatever their name.

    Args:
        scope: where types without a scope are looked up.
    """
    kept = []
    for transform in pipeline:
        if not _loads_annotations(type_class(transform, TRANSFORMS, scope)):
            inner = transform.get("transforms")
            kept.append({**transform, "transforms": _inner(inner, scope)} if inner else transform)
    return kept


def _inner(transforms: Any, scope: str | None) -> Any:
    """The transforms inside another one: a list, or a list of lists that are alternatives."""
    if isinstance(transforms, Mapping):
        return transforms
    if all(isinstance(one, Mapping) for one in transforms):
        return without_annotations(transforms, scope)
    return [rest for rest in (_inner(one, scope) for one in transforms) if rest]


def _loads_annotations(kind: Any) -> bool:
    return isclass(kind) and any(_ANNOTATIONS.fullmatch(c.__name__) for c in getmro(kind))


def load_photo(transforms: Sequence[Transform], path: Path, **fields: Any) -> tuple[dict, int]:
    """Run the transforms that load a photo.

    Args:
        path: its file.
        **fields: what else the transforms read.

    Returns:
        What the transforms pass on, with the image as ``img``, and the number of transforms.

    Raises:
        PhotoError: more than ``MOST_PIXELS`` (the header says it, before anything is decoded), or
            the photo cannot be read.
    """
    try:
        check_photo_file(path)
        results, count = run_until_loaded(transforms, {"img_path": str(path), **fields})
        check_pixels(results["img"].shape[1::-1])
    except (MemoryError, PhotoError):
        raise
    except Exception as e:  # decoders raise anything
        raise PhotoError(one_line(e)) from e
    return results, count


def run_until_loaded(transforms: Sequence[Transform], results: dict) -> tuple[dict, int]:
    """Run transforms until ``img`` is there; those that load annotations are left out."""
    for count, transform in enumerate(transforms, 1):
        if not _loads_annotations(type(transform)):
            try:
                results = run_transform(transform, results)
            except AssertionError as e:  # mmcv's, of a photo that it cannot decode
                raise PhotoError(not_readable(Path(results["img_path"]))) from e
        if results.get("img") is not None:
            return results, count
    raise PhotoError("the pipeline loads no photo: begin it with LoadImageFromFile")


def run_transform(transform: Transform, results: dict) -> dict:
    """What a transform makes of ``results``.

    Raises:
        PhotoError: it gives nothing, needs what a photo's file does not give, or OpenCV fails, as
            where resizing leaves no pixel of a side.
    """
    name = type(transform).__name__
    try:
        made = transform(results)
    except KeyError as e:
        raise PhotoError(f"{name} of the pipeline needs {e}, which a file does not give") from e
    except cv2.error as e:
        what = f"{name} of the pipeline fails"
        if isinstance(results.get("img"), np.ndarray):  # it is loaded
            what += f" on {'x'.join(map(str, results['img'].shape[1::-1]))} px"
        raise PhotoError(f"{what}: {one_line(e)}") from e
    if made is None:
        raise PhotoError(f"not a readable photo: {name} of the pipeline gives nothing")
    return made


# ---------------------------------------------------------------------------------- the picture


def picture_of(image: np.ndarray) -> np.ndarray:
    """An image to look at.

    Args:
        image: as a pipeline loads it: grey (H, W), or (H, W, channels) that begin with BGR; of any
            dtype. If values are outside 0..255, or none is above 1, they are stretched to 0..255.

    Returns:
        uint8 (H, W, 3), RGB; the same size.
    """
    channels = image[..., None] if image.ndim == 2 else image
    channels = channels[..., 2::-1] if channels.shape[2] > 2 else channels[..., [0, 0, 0]]
    return channels if channels.dtype == np.uint8 else _in_8_bits(channels)


def _in_8_bits(values: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float32))
    low, high = values.min(), values.max()
    if low < 0 or high > 255 or 0 < high <= 1:
        values = (values - low) * (255 / ((high - low) or 1))
    return values.round().astype(np.uint8)


def paths_in(batch: Any) -> list[str]:
    """The photos of a batch of a data loader, as far as its samples name them."""
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    samples = samples if isinstance(samples, (list, tuple)) else ()
    paths = (getattr(sample, "img_path", None) for sample in samples)
    return [str(path) for path in paths if path]


def picture_in(dataset: Any, path: str) -> np.ndarray:
    """`picture_of` a photo as a data set loads it; of joined data sets, as the one that has it."""
    *parts, last = parts_of(dataset)
    owner = next((part for part in parts if _lists(part, path)), last)
    results, _ = run_until_loaded(owner.pipeline.transforms, {"img_path": path})
    return picture_of(results["img"])


def parts_of(dataset: Any) -> Iterator[Any]:
    """The data sets with a pipeline inside of wrappers that repeat or join them."""
    if hasattr(dataset, "pipeline"):
        yield dataset
    else:
        for part in getattr(dataset, "datasets", None) or [dataset.dataset]:
            yield from parts_of(part)


def _lists(dataset: Any, path: str) -> bool:
    return any(dataset.get_data_info(i)["img_path"] == path for i in range(len(dataset)))
