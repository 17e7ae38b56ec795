"""A folder of results: label files, overlays, tables, COCO's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from fpn_neck.utils.files import check_folder, write_text, write_whole
from fpn_neck.utils.results.arrays import Arrays
from fpn_neck.utils.results.coco import CocoIds, results, segment_picture
from fpn_neck.utils.results.drawing import draw
from fpn_neck.utils.results.options import OPACITY
from fpn_neck.utils.results.pictures import Palette, save_labels
from fpn_neck.utils.results.plain import SCHEMA, plain

_PICTURES = ("labels", "overlays", "panoptic")
_TABLES = (
    "photos.json",
    "results.json",
    "detections.json",
    *(f"coco/{kind}.json" for kind in ("bbox", "segm", "panoptic", "instances")),
)


class ResultsFolder:
    """Writes results: the pictures of each at once, the tables at the end.

    - ``labels/NAME.png``: the labels with their palette, see `pictures.save_labels`
    - ``overlays/NAME.png``: for people, see `Result.draw`
    - ``panoptic/NAME.png``: COCO's picture of the segments
    - ``photos.json``: {photo: NAME}
    - ``detections.json``: {photo: objects without their masks}, of a detector
    - ``results.json``: everything, see `document`
    - ``coco/``: bbox.json, segm.json or panoptic.json, and instances.json, to whose photos and
      categories they refer

    Args:
        folder: None writes nothing; there is only the `document`.
        classes: names of the model's classes.
        overlay: of ``OVERLAYS``; None: as `Result.draw` does.
        opacity: see `Result.draw`.
        coco: None: no COCO files; True: with ids from 1 on; a COCO file: with its ids.

    Raises:
        OSError: nothing can be written there.
        ValueError: see `CocoIds`.
    """

    def __init__(
        self,
        folder: Path | None,
        classes: Sequence[str],
        *,
        overlay: str | None = None,
        opacity: float = OPACITY,
        coco: Path | bool | None = None,
    ) -> None:
        self._folder, self._overlay, self._opacity = folder, overlay, opacity
        self._classes = list(classes)
        self._ids = CocoIds(None if coco is True else coco, classes) if coco else None
        self._photos: list[dict[str, Any]] = []
        self._coco: dict[str, list[dict[str, Any]]] = {}
        self._earlier_failed: dict[str, str] | None = None  # None: nothing earlier is kept
        self.names: dict[str, str] = {}
        if folder is not None:
            check_folder(folder)

    def older_pictures(self) -> int:
        """How many pictures in the folder are of earlier runs."""
        if self._folder is None:
            return 0
        found = [file for kind in _PICTURES for file in (self._folder / kind).rglob("*.png")]
        written = {file for one in self._photos for file in one["outputs"].values()}
        return sum(file.relative_to(self._folder).as_posix() not in written for file in found)

    def keep_earlier(self, name: str, photo: str | None) -> None:
        """Keep what the folder says of other photos; the next result has this name.

        Raises:
            ValueError: the tables can't be read, or are of a model with other classes; the name is
                of another photo.
        """
        path = self._folder / "results.json" if self._folder is not None else None
        if path is None or not path.is_file():
            return
        classes, photos, failed = _read_results(path)
        if classes != self._classes:
            raise ValueError(f"{path} is of a model with other classes: give another folder")
        known = photos.pop(name)["photo"] if name in photos else photo
        if not _are_same(known, photo):
            raise ValueError(
                f"{path} has the name {name!r} for {known or 'an array'}: give another name, "
                "save(name=)"
            )
        self._earlier_failed = {key: error for key, error in failed.items() if key != photo}
        self._photos += photos.values()
        self.names |= {one["photo"]: key for key, one in photos.items() if one["photo"] is not None}

    def add(self, result: Arrays, name: str) -> None:
        """Write a result's pictures, and keep its numbers for the tables.

        Raises:
            OSError, ValueError: a picture can't be written; the COCO file lacks the photo.
        """
        image_id = self._ids.image_id(result) if self._ids else None
        content = plain(result) | {"name": name}
        if self._folder is not None:
            content["outputs"] = self._write_pictures(self._folder, result, name)
        if image_id is not None and self._ids:
            self._add_coco(result, name, image_id, self._ids.categories)
        self._photos.append(content)
        if result.photo is not None:  # None for an array
            self.names[str(result.photo)] = name

    def document(self, failed: Mapping[str, str] | None = None) -> dict[str, Any]:
        """All results as plain data: ``schema``, ``classes``, ``photos``, ``failed``."""
        known = (self._earlier_failed or {}) | dict(failed or {})
        errors = [{"photo": photo, "error": error} for photo, error in known.items()]
        return {
            "schema": SCHEMA,
            "classes": self._classes,
            "photos": self._photos,
            "failed": errors,
        }

    def finish(self, failed: Mapping[str, str] | None = None) -> None:
        """Write the tables; those of an earlier run, which this one has not, are removed.

        Args:
            failed: {photo: error}, for ``results.json``.
        """
        if self._folder is None:
            return
        tables = self._tables(failed)
        for name, content in tables.items():
            write_text(self._folder / name, json.dumps(content))
        for name in set(_TABLES) - set(tables):  # of another model, or without --coco now
            if self._earlier_failed is None or not name.startswith("coco/"):
                (self._folder / name).unlink(missing_ok=True)

    def _tables(self, failed: Mapping[str, str] | None) -> dict[str, Any]:
        """{file: content}"""
        tables: dict[str, Any] = {"photos.json": self.names, "results.json": self.document(failed)}
        found = [one for one in self._photos if "objects" in one or "segments" in one]
        if found:
            tables["detections.json"] = {
                one["photo"] or one["name"]: _detections(one) for one in found
            }
        if self._ids and self._coco:
            tables |= {f"coco/{kind}.json": content for kind, content in self._coco.items()}
            tables["coco/instances.json"] = self._ids.as_dataset()
        return tables

    def _write_pictures(self, folder: Path, result: Arrays, name: str) -> dict[str, str]:
        """{kind: file}; a file is named from the folder on."""
        written = {}
        if result.labels is not None:
            written["labels"] = f"labels/{name}.png"
            self._write_labels(folder / written["labels"], result)
        if result.segment_map is not None:
            written["segments"] = f"panoptic/{name}.png"
            _save(segment_picture(result.segment_map), folder / written["segments"])
        if self._overlay != "none":
            written["overlay"] = f"overlays/{name}.png"
            beside = None if self._overlay is None else self._overlay == "side-by-side"
            picture = draw(result, side_by_side=beside, opacity=self._opacity)
            _save(picture, folder / written["overlay"])
        return written

    def _write_labels(self, path: Path, result: Arrays) -> None:
        assert result.labels is not None
        labels = result.labels
        if result.first_value:
            labels = labels.astype("int64") + result.first_value
        palette: Palette = [(0, 0, 0)] * result.first_value + [*result.palette]
        if result.segment_map is not None:  # a panoptic model's pixels without a class
            palette = [*palette[: result.first_value + len(result.classes)], (0, 0, 0)]
        write_whole(path, partial(save_labels, labels, palette=palette))

    def _add_coco(
        self, result: Arrays, name: str, image_id: int, categories: Mapping[str, int] | None
    ) -> None:
        found = results(result, image_id, categories)
        if result.segments is not None:
            found = [one | {"file_name": f"{name}.png"} for one in found]
            self._coco.setdefault("panoptic", []).extend(found)
            return
        if result.boxes is not None:
            boxes = [{k: v for k, v in one.items() if k != "segmentation"} for one in found]
            self._coco.setdefault("bbox", []).extend(boxes)
        if result.masks is not None or result.labels is not None:
            self._coco.setdefault("segm", []).extend(found)


def is_result(path: Path, out: Path | None = None) -> bool:
    """Whether a file is a `ResultsFolder`'s, so that it is no photo.

    Args:
        path: an existing file.
        out: a folder whose results may be incomplete. Another folder is known by its tables.
    """
    parent = path.resolve().parent
    folder = parent.parent if parent.name in (*_PICTURES, "coco") else parent
    if parent == folder and path.name not in _TABLES:
        return False
    if out is not None and folder == out.resolve():
        return True
    return all((folder / name).is_file() for name in ("photos.json", "results.json"))


def _save(picture: Image.Image, path: Path) -> None:
    write_whole(path, partial(picture.save, format="PNG"))


def _read_results(path: Path) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, str]]:
    """Classes, {name: photo} and {photo: error} of a ``results.json``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA}")
        failed = {one["photo"]: one["error"] for one in content["failed"]}
        photos = {one["name"]: one | {"photo": one["photo"]} for one in content["photos"]}
        return content["classes"], photos, failed
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} can't be read ({e!r}): remove it, or give another folder") from e


def _are_same(photo: str | None, other: str | None) -> bool:
    if photo is None or other is None:
        return photo is other
    return Path(photo).resolve() == Path(other).resolve()


def _detections(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    objects = content.get("objects", [])
    return [{key: one[key] for key in ("label", "score", "box")} for one in objects]
