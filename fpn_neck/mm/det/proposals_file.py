"""mmdet's files of precomputed proposals: read without running code, and checked.

The format is that of mmdet 3.3's ``DumpProposals``, for ``BaseDetDataset.load_proposals``: a pickle
of one dictionary from ``folder/name.jpg`` (the last two parts of the photo's path) to ``bboxes``,
float (n, 4) as x1, y1, x2, y2 in px of the photo as it is on disk, and ``scores``, float (n,).
``fpn-neck make_proposals`` adds each photo's file size, ``photo_bytes``, since the key is the same
for train/images/000001.jpg and val/images/000001.jpg.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.utils.text import first_few
from fpn_neck.weights.array_pickles import ArrayUnpickler

_REMAKE = "make the file again for this data set with fpn-neck make_proposals"
_TOLERANCE = 1.0  # px that a box may reach over the photo's border


class Proposals(NamedTuple):
    """Boxes float32 (n, 4), scores float32 (n,), and the photo's file size if it is known."""

    boxes: np.ndarray
    scores: np.ndarray
    photo_bytes: int | None = None


class DatasetPhoto(NamedTuple):
    """A photo as a data set lists it: its path, height and width in px."""

    path: Path
    height: int
    width: int


class _InstanceData:
    """Holds the attributes of a pickled ``mmengine.structures.InstanceData``."""


class _Unpickler(ArrayUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("mmengine.structures.instance_data", "InstanceData"):
            return _InstanceData
        if (module, name) in (("builtins", "set"), ("__builtin__", "set")):
            return set  # InstanceData lists its fields in two
        return super().find_class(module, name)


def photo_key(path: str | Path) -> str:
    """The key of a photo in a proposals file: the names of its folder and its file."""
    return "/".join(Path(path).parts[-2:])


def load_proposals(path: str | Path, *, for_mmdet: bool = False) -> dict[str, Proposals]:
    """Read a proposals file, or a JSON file ``{photo: [[x1, y1, x2, y2], ...]}``.

    Boxes of a JSON file have the score 0, as mmdet's ``LoadProposals`` gives them.

    Args:
        for_mmdet: also refuse files that this function can read and mmdet's data sets cannot.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, is not a proposals file, needs code to run, or holds
            something else than boxes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"proposals {path}: no such file; fpn-neck make_proposals writes it"
        )
    try:
        content = _read(path)
    except Exception as e:  # pickle raises nearly any type
        raise ValueError(
            f"proposals {path} cannot be read as boxes ({e!r}): it is truncated, needs code "
            f"to run, or is not a proposals file; {_REMAKE}"
        ) from e
    if not isinstance(content, dict):
        raise ValueError(
            f"proposals {path}: got a {type(content).__name__}, expected mmdet 3's dictionary from "
            f"'folder/name.jpg' to boxes (mmdet 2 wrote lists); {_REMAKE}"
        )
    if for_mmdet:
        _check_mmdet_reads(path, content)
    entries = ((_checked_key(path, key), entry) for key, entry in content.items())
    return {key: _checked_entry(path, key, entry) for key, entry in entries}


def _check_mmdet_reads(path: Path, content: dict) -> None:
    """mmdet reads only pickles of InstanceData, or of dictionaries of arrays."""
    entries = [vars(e) if isinstance(e, _InstanceData) else e for e in content.values()]
    arrays = (
        isinstance(entry, dict)
        and all(isinstance(entry[k], np.ndarray) for k in ("bboxes", "scores") if k in entry)
        for entry in entries
    )
    if path.suffix == ".json" or not all(arrays):
        raise ValueError(
            f"proposals {path}: mmdet trains and tests only with a pickle of InstanceData; "
            f"{_REMAKE} (fpn-neck predict --proposals takes this file too)"
        )


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(), object_pairs_hook=_without_duplicates)
    with path.open("rb") as file:
        return _Unpickler(file).load()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    duplicates = [key for key, count in counts.items() if count > 1]
    if duplicates:
        raise ValueError(f"{duplicates[0]!r} is there more than once")
    return dict(pairs)


def _checked_key(path: Path, key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"proposals {path}: the key {key!r} is not a file name; {_REMAKE}")
    return key


def _checked_entry(path: Path, key: str, entry: Any) -> Proposals:
    fields = vars(entry) if isinstance(entry, _InstanceData) else entry
    fields = fields if isinstance(fields, dict) else {"bboxes": fields}
    try:
        boxes = np.asarray(fields["bboxes"], np.float32)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        scores = np.asarray(fields.get("scores", np.zeros(len(boxes))), np.float32)
    except (LookupError, TypeError, ValueError) as e:
        raise ValueError(f"proposals {path}: {key} holds no boxes ({e!r}); {_REMAKE}") from e
    if boxes.shape[1:] != (4,) or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"proposals {path}: {key} has boxes of shape {boxes.shape} and scores of shape "
            f"{scores.shape}, expected (n, 4) and (n,); {_REMAKE}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"proposals {path}: {key} holds NaN or infinity; train the RPN again")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(
            f"proposals {path}: {key} has a box with x2 < x1 or y2 < y1; boxes are "
            "[x1, y1, x2, y2] in px, not [x, y, width, height]"
        )
    return Proposals(boxes, scores, fields.get("photo_bytes"))


def check_photos(photos: Iterable[DatasetPhoto]) -> None:
    """Refuse a data set for which no proposals file can be made.

    Raises:
        FileNotFoundError: photos are missing; the first few are named.
        ValueError: two photos have the same folder name and file name, by which mmdet finds boxes.
    """
    paths = [photo.path for photo in photos]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{_counted(missing, 'photos')} of {len(paths)} do not exist")
    counts = Counter(photo_key(path) for path in paths)
    duplicates = [key for key, count in counts.items() if count > 1]
    if duplicates:
        raise ValueError(
            f"{_counted(duplicates, 'names')} belong to several photos each; mmdet finds proposals "
            "by folder name and file name, so rename the folders"
        )


def check_proposals(
    name: str, proposals: Mapping[str, Proposals], photos: Sequence[DatasetPhoto]
) -> None:
    """Refuse proposals that do not belong to exactly these photos.

    Args:
        name: of the file, for the message.
        proposals: see `load_proposals`.
        photos: all photos of the data set, also those without an object.

    Raises:
        FileNotFoundError, ValueError: see `check_photos`; photos without an entry, entries without
            a photo, photos without a box, boxes of other photos; the first few are named.
    """
    check_photos(photos)
    _check_keys(name, proposals, {photo_key(photo.path) for photo in photos})
    pairs = [(photo, proposals[photo_key(photo.path)]) for photo in photos]
    wrong = {
        "without a single box": [photo for photo, entry in pairs if not len(entry.boxes)],
        "of another file size: other photos under the same names, such as another split's": [
            photo for photo, entry in pairs if not matches_file_size(entry, photo.path)
        ],
        "with boxes beyond the border: made at another scale, or of other photos": [
            photo for photo, entry in pairs if _crosses_border(entry.boxes, photo)
        ],
    }
    for reason, refused in wrong.items():
        if refused:
            keys = _counted([photo_key(photo.path) for photo in refused], "photos")
            raise ValueError(f"proposals {name}: {keys} {reason}; {_REMAKE}")


def matches_file_size(proposals: Proposals, path: Path) -> bool:
    """Whether the photo has the file size that the proposals were made for, if it is known."""
    return proposals.photo_bytes in (None, path.stat().st_size)


def _check_keys(name: str, proposals: Mapping[str, Proposals], keys: set[str]) -> None:
    missing = sorted(key for key in keys if key not in proposals)
    extra = sorted(key for key in proposals if key not in keys)
    if not missing and not extra:
        return
    if {Path(k).name for k in missing} == {Path(k).name for k in extra}:
        raise ValueError(
            f"proposals {name}: the photos were moved: the file has the key {extra[0]!r}, the data "
            f"set {missing[0]!r}, and mmdet compares the folder's name too; {_REMAKE}"
        )
    findings = [_counted(missing, "photos") + " without an entry"] if missing else []
    findings += [_counted(extra, "entries") + " without a photo"] if extra else []
    raise ValueError(
        f"proposals {name} are those of another split or data set, or of a filtered one: "
        f"{', '.join(findings)}; {_REMAKE}"
    )


def _crosses_border(boxes: np.ndarray, photo: DatasetPhoto) -> bool:
    limit = np.array([photo.width, photo.height] * 2) + _TOLERANCE
    return bool((boxes < -_TOLERANCE).any() or (boxes > limit).any())


def _counted(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what} ({first_few(names)})"
