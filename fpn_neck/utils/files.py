"""Files that are either complete or do not exist."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from threading import get_ident

_TEMPORARY = re.compile(r"\..+\.(\d+)\.part")


def write_whole(path: Path, write: Callable[[Path], object], *, sync: bool = False) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it.

    A killed process never leaves an incomplete file under ``path``. The temporary file has another
    suffix, so that ``*.pth`` does not find it; a writer that chooses the format of a picture by
    the suffix needs the format as an argument.

    Args:
        sync: wait until the content and then the name are on the disk; not even a power failure
            leaves an incomplete file then. It takes milliseconds, or seconds on a busy disk.

    Raises:
        OSError: from ``write`` or the file system; ``path`` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A part of the name and a hash: a long name with another suffix would be too long.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    owner = f"{get_ident()}.{os.getpid()}"
    temporary = path.with_name(f".{path.name[:20]}.{digest}.{owner}.part")
    try:
        write(temporary)
        if sync:
            _sync(temporary)
        os.replace(temporary, path)
        if sync:
            _sync(path.parent)
    except OSError as e:
        if e.filename != str(temporary):
            raise
        raise type(e)(e.errno, e.strerror, str(path)) from e  # the user knows this name
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text, UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_folder(path: Path) -> None:
    """Make the folder if it is missing, and check that files can be written in it.

    Raises:
        OSError: they cannot; names the folder and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise OSError(f"{path}: nothing can be written there ({e.strerror})") from e


def check_file(path: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Raises:
        OSError: it cannot; names the file or its folder, and the reason.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    check_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `write_whole` whose process was killed."""
    for path in folder.iterdir():
        name = _TEMPORARY.fullmatch(path.name)
        if name and path.is_file() and not _is_running(int(name[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False  # an earlier process: in a container, process numbers repeat with each start
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
