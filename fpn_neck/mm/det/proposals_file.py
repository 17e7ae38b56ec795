"""Precomputed proposals: mmdet's file of them, read without running code, and what refuses it.

The format is that of mmdet 3.3's ``DumpProposals``, for ``BaseDetDataset.load_proposals``: a pickle
of one dictionary from ``folder/name.jpg`` (the last two parts of the photo's path) to ``bboxes``,
float (n, 4) as x1, y1, x2, y2 in px of the photo as it is on disk, and ``scores``, float (n,).
``tools/make_proposals.py`` adds each photo's file size, ``photo_bytes``: the key alone does not
tell train/images/000001.jpg from val/images/000001.jpg.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.weights.array_pickles import ArrayUnpickler

_REMAKE = "make the file again for this data set with tools/make_proposals.py"
_TOLERANCE = 1.0  # px that a box may reach over the photo's border


class Proposals(NamedTuple):
    """Boxes float32 (n, 4), scores float32 (n,), and the photo's file size where it is known."""

    boxes: np.ndarray
    scores: np.ndarray
    photo_bytes: int | None = None


class Photo(NamedTuple):
    """A photo of a data set: its path, height and width in px."""

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


def key_of(path: str | Path) -> str:
    """The name of a photo in a proposals file: its folder's name and its own."""
    return "/".join(Path(path).parts[-2:])


def load_proposals(path: str | Path, *, for_mmdet: bool = False) -> dict[str, Proposals]:
    """Read a proposals file, or a JSON file ``{photo: [[x1, y1, x2, y2], ...]}``.

    Boxes of a JSON file have the score 0, as mmdet's ``LoadProposals`` gives them.

    Args:
        for_mmdet: also refuse what this function reads and mmdet's data sets don't.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, no proposals file, asks for code, or holds something but boxes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"proposals {path}: no such file; tools/make_proposals.py writes it"
        )
    try:
        content = _read(path)
    except Exception as e:  # pickle raises nearly anything on a file that is cut or no pickle
        raise ValueError(
            f"proposals {path} cannot be read as boxes ({e!r}); it is truncated, needs code to "
            f"run, or is no proposals file: {_REMAKE}"
        ) from e
    if not isinstance(content, dict):
        raise ValueError(
            f"proposals {path}: a {type(content).__name__}, where mmdet 3 wants a dictionary from "
            f"'folder/name.jpg' to boxes (mmdet 2 wrote lists); {_REMAKE}"
        )
    if for_mmdet:
        _check_form(path, content)
    return {_text(path, key): _checked(path, key, entry) for key, entry in content.items()}


def _check_form(path: Path, content: dict) -> None:
    """mmdet takes pickles of InstanceData or dictionaries of arrays alone."""
    entries = [vars(e) if isinstance(e, _InstanceData) else e for e in content.values()]
    arrays = (
        isinstance(entry, dict)
        and all(isinstance(entry[k], np.ndarray) for k in ("bboxes", "scores") if k in entry)
        for entry in entries
    )
    if path.suffix == ".json" or not all(arrays):
        raise ValueError(
            f"proposals {path}: mmdet trains and tests with a pickle of InstanceData alone; "
            f"{_REMAKE} (tools/predict.py --proposals takes this file too)"
        )


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(), object_pairs_hook=_unique)
    with path.open("rb") as file:
        return _Unpickler(file).load()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there more than once")
    return dict(pairs)


def _text(path: Path, key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"proposals {path}: the key {key!r} is no file name; {_REMAKE}")
    return key


def _checked(path: Path, key: str, entry: Any) -> Proposals:
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
            f"{scores.shape}, where (n, 4) and (n,) are wanted; {_REMAKE}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"proposals {path}: {key} holds NaN or infinity: train the RPN again")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(
            f"proposals {path}: {key} holds a box whose x2, y2 is before its x1, y1; boxes are "
            "[x1, y1, x2, y2] in px, not [x, y, width, height]"
        )
    return Proposals(boxes, scores, fields.get("photo_bytes"))


def check_photos(photos: Iterable[Photo]) -> None:
    """Refuse a data set that no proposals file can serve.

    Raises:
        FileNotFoundError: photos are missing; the first few are named.
        ValueError: two photos share folder name and file name, by which mmdet looks boxes up.
    """
    paths = [photo.path for photo in photos]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{_some(missing, 'photos')} of {len(paths)} not there")
    twice = [key for key, count in Counter(map(key_of, paths)).items() if count > 1]
    if twice:
        raise ValueError(
            f"{_some(twice, 'names')} stand for several photos each; mmdet finds proposals by "
            "folder name and file name, so rename the folders"
        )


def check_proposals(name: str, proposals: Mapping[str, Proposals], photos: Sequence[Photo]) -> None:
    """Refuse proposals that are not those of exactly these photos.

    Args:
        name: of the file, for the message.
        proposals: see `load_proposals`.
        photos: all photos of the data set, also those without an object.

    Raises:
        FileNotFoundError, ValueError: see `check_photos`; photos without an entry, entries without
            a photo, photos without a box, boxes of other photos; the first few are named.
    """
    check_photos(photos)
    _check_keys(name, proposals, {key_of(photo.path) for photo in photos})
    found = [(photo, proposals[key_of(photo.path)]) for photo in photos]
    wrong = {
        "without a single box": [p for p, b in found if not len(b.boxes)],
        "of another file size: other photos under the same names, such as another split's": [
            p for p, b in found if not fits_file(b, p.path)
        ],
        "with boxes beyond the border: made at another scale, or of other photos": [
            p for p, b in found if _reaches_out(b.boxes, p)
        ],
    }
    for reason, listed in wrong.items():
        if listed:
            keys = _some([key_of(photo.path) for photo in listed], "photos")
            raise ValueError(f"proposals {name}: {keys} {reason}; {_REMAKE}")


def fits_file(proposals: Proposals, path: Path) -> bool:
    """Whether the photo may be the one that the proposals were made of, by its file size."""
    return proposals.photo_bytes in (None, path.stat().st_size)


def _check_keys(name: str, proposals: Mapping[str, Proposals], keys: set[str]) -> None:
    missing = sorted(key for key in keys if key not in proposals)
    extra = sorted(key for key in proposals if key not in keys)
    if not missing and not extra:
        return
    if {Path(k).name for k in missing} == {Path(k).name for k in extra}:
        raise ValueError(
            f"proposals {name}: the photos were moved; the file says {extra[0]!r}, the data set "
            f"{missing[0]!r}, and mmdet compares the folder's name too; {_REMAKE}"
        )
    findings = [_some(missing, "photos") + " without an entry"] if missing else []
    findings += [_some(extra, "entries") + " without a photo"] if extra else []
    raise ValueError(
        f"proposals {name} are those of another split or data set, or of a filtered one: "
        f"{', '.join(findings)}; {_REMAKE}"
    )


def _reaches_out(boxes: np.ndarray, photo: Photo) -> bool:
    limit = np.array([photo.width, photo.height] * 2) + _TOLERANCE
    return bool((boxes < -_TOLERANCE).any() or (boxes > limit).any())


def _some(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"
