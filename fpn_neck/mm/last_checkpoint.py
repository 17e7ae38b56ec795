"""Which checkpoint a work dir names as its last."""

from __future__ import annotations

from pathlib import Path

from fpn_neck.utils.text import first_few

_POINTER = "last_checkpoint"
_CHECKPOINTS = ("iter_*.pth", "epoch_*.pth", "interrupted.pth")


def last_checkpoint(work_dir: str | Path) -> str | None:
    """What the file ``last_checkpoint`` names; None if a run has to start from the beginning.

    If the work dir was moved, it is the file of that name inside it. If ``last_checkpoint`` is
    missing beside a single checkpoint, it is that one: a kill may have come between a run's first
    checkpoint and the file that names it.
    """
    pointer, files = Path(work_dir) / _POINTER, _checkpoints(work_dir)
    if not pointer.exists() and len(files) == 1:
        return str(files[0])
    named = pointer.read_text().strip() if pointer.is_file() else ""
    if not named:
        return None
    inside = pointer.with_name(Path(named).name)
    return str(inside) if inside.exists() and not Path(named).exists() else named


def check_last_checkpoint(work_dir: str | Path) -> None:
    """Refuse to start from the beginning in a work dir that holds checkpoints.

    Raises:
        ValueError: ``last_checkpoint`` is empty, or it is missing beside checkpoints.
        FileNotFoundError: the checkpoint that it names is missing.
    """
    pointer, last = Path(work_dir) / _POINTER, last_checkpoint(work_dir)
    remedy = "give --resume FILE, or another --work-dir"
    if last is None:
        files = [path.name for path in _checkpoints(work_dir)]
        if files or pointer.exists():
            what = "is empty" if pointer.exists() else "is missing"
            beside = first_few(files) or "no checkpoint"
            raise ValueError(f"--resume: {pointer} {what}, beside it {beside}: {remedy}")
    elif "://" not in last and not Path(last).exists():
        raise FileNotFoundError(
            f"--resume: {pointer} names {last}, which is neither there nor beside it: {remedy}"
        )


def _checkpoints(work_dir: str | Path) -> list[Path]:
    return sorted(path for name in _CHECKPOINTS for path in Path(work_dir).glob(name))
