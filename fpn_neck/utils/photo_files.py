"""Which photos the user means, and under which names their results are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from glob import glob, has_magic
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from fpn_neck.utils.text import first_few

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_SHOWN = 5  # kinds of files that were left out


class Found(NamedTuple):
    """Photos, each once, and how many files of folders were left out, by their kind."""

    photos: list[Path]
    left_out: Counter[str]


def find_photos(arguments: list[str], is_output: Callable[[Path], bool]) -> Found:
    """The files of all arguments, in their order.

    A file that is named is taken, whatever its suffix. A folder gives the photos in it and in its
    folders, without hidden ones.

    Args:
        arguments: files, folders and globs.
        is_output: whether a file is a result; folders and globs do not give these.

    Raises:
        ValueError: an argument matches nothing.
    """
    photos: dict[Path, None] = {}
    others: dict[Path, str] = {}
    for argument in arguments:
        if not argument:  # Path("") is the current folder
            raise ValueError("a photo's name is empty; give files, folders or globs")
        path, left_out = Path(argument), {}
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if _can_be_read(f) and not is_output(f))
            left_out = {f: kind for f in files if (kind := _left_out(f.relative_to(path)))}
            files = [f for f in files if f not in left_out]
        elif path.exists():  # an existing name is not a pattern, even with brackets in it
            files = [path] if path.is_file() else []
        else:
            matches = sorted(map(Path, glob(argument, recursive=True)))
            files = [f for f in matches if _can_be_read(f) and not is_output(f)]
        if not files and not path.exists() and not has_magic(argument):
            raise ValueError(f"{argument}: no such file; give files, folders or globs")
        if not files:
            kinds = Counter(left_out.values())
            why = f", left out: {_text(kinds)}; folders give {_taken()}" if kinds else ""
            raise ValueError(f"{argument}: no photos there{why}; give files, folders or globs")
        photos |= dict.fromkeys(files)
        others |= left_out
    return Found(list(photos), Counter(kind for f, kind in others.items() if f not in photos))


def _can_be_read(path: Path) -> bool:
    return path.is_file() or not path.exists()  # not folders, not pipes; a broken link is reported


def _left_out(path: Path) -> str:
    """Why a folder's file is left out; '' for a photo."""
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    suffix = path.suffix.lower()
    return "" if suffix in SUFFIXES else suffix or "without suffix"


def left_out_text(found: Found) -> str:
    """What was left out, in one line; '' if nothing was."""
    if not found.left_out:
        return ""
    kinds = _text(found.left_out)
    return f"left out: {kinds}; folders give {_taken()}, a file is read if it is named"


def _taken() -> str:
    return " ".join(sorted(SUFFIXES))


def _text(left_out: Counter[str]) -> str:
    """``3 files (2 .gif, 1 hidden)``."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    number, shown = left_out.total(), first_few([f"{n} {kind}" for kind, n in kinds], _SHOWN)
    return f"{number} file{'s' if number > 1 else ''} ({shown})"


def photos_text(folder: Path) -> str:
    """``, but 20 .JPG``: the photos of a folder by their suffixes; '' if there are none."""
    found = Counter(f.suffix for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    texts = [f"{n} {suffix}" for suffix, n in found.most_common()]
    return f", but {first_few(texts)}" if texts else ""


def output_names(photos: list[Path]) -> list[str]:
    """The photos' stems, made unique with their folder's name, then with a number."""
    names: dict[str, None] = {}
    for photo in photos:
        stem = photo.stem
        numbered = (f"{stem}_{i}" for i in count(2))
        candidates = chain([stem, f"{photo.parent.name}_{stem}"], numbered)
        names[next(c for c in candidates if c not in names)] = None
    return list(names)
