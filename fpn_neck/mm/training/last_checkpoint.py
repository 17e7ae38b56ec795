"""Which checkpoint a work dir names as its last."""

from __future__ import annotations

from pathlib import Path

_NAME = "last_checkpoint"
_NAMES = ("iter_*.pth", "epoch_*.pth", "interrupted.pth")
_SHOWN = 3


def last_checkpoint(work_dir: str | Path) -> str | None:
    """What ``last_checkpoint`` names; the file beside it where the work dir has been moved.

    Where it isn't there and a single checkpoint is, that one: a kill may have come between a run's
    first checkpoint and the pointer to it.
    """
    pointer, files = Path(work_dir) / _NAME, _checkpoints(work_dir)
    if not pointer.exists() and len(files) == 1:
        return str(files[0])
    named = pointer.read_text().strip() if pointer.is_file() else ""
    beside = pointer.with_name(Path(named).name) if named else pointer
    return named and str(beside if not Path(named).exists() and beside.exists() else named) or None


def _checkpoints(work_dir: str | Path) -> list[Path]:
    return sorted(path for name in _NAMES for path in Path(work_dir).glob(name))


def check_last_checkpoint(work_dir: str | Path) -> None:
    """Refuse to begin anew where there is something to go on from.

    Raises:
        ValueError: ``last_checkpoint`` is empty, or isn't there and checkpoints are.
        FileNotFoundError: what it names is gone.
    """
    folder, last = Path(work_dir), last_checkpoint(work_dir)
    remedy = "give --resume FILE, or another --work-dir"
    if last is None:
        files = [path.name for path in _checkpoints(folder)]
        if files or (folder / _NAME).exists():
            what = "is empty" if (folder / _NAME).exists() else "isn't there"
            more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
            there = f"{', '.join(files[:_SHOWN]) or 'no checkpoint'}{more}"
            raise ValueError(f"--resume: {folder / _NAME} {what}, beside it {there}: {remedy}")
    elif "://" not in last and not Path(last).exists():
        raise FileNotFoundError(
            f"--resume: {folder / _NAME} names {last}, which is neither there nor beside it: "
            f"{remedy}"
        )
