"""Starts several processes of one run as a launcher does, and ends all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from helpers.project import PROJECT

VARIABLES = {  # rank, number of processes, rank on this machine
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


@dataclass
class Ended:
    """Attributes: seconds: from the start of the first process to the end of this one."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


def environment(**more: object) -> dict[str, str]:
    """This process's environment, without a launcher's variables, with one thread, offline."""
    launchers = {name for names in VARIABLES.values() for name in names}
    kept = {name: value for name, value in os.environ.items() if name not in launchers}
    paths = [str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])]
    kept |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    kept["PYTHON"] = sys.executable  # for tools/dist_train.sh
    return kept | {name: str(value) for name, value in more.items()}


def of_launcher(launcher: str, count: int = 2) -> list[dict[str, str]]:
    """The variables that a launcher on this machine sets for each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    if launcher == "slurm":
        place["SLURM_NODELIST"] = "localhost"
    names = VARIABLES[launcher]
    numbers = [dict(zip(names, (rank, count, rank), strict=True)) for rank in range(count)]
    return [place | {name: str(value) for name, value in of.items()} for of in numbers]


def run_all(
    commands: Sequence[Sequence[object]],
    environments: Sequence[dict[str, str]],
    cwd: Path,
    *,
    seconds: float = 600,
) -> list[Ended]:
    """Run the commands at the same time; one that takes longer is killed and fails the test."""
    begin = time.monotonic()
    with ExitStack() as stack:
        running, ended = [], {}
        for number, (command, env) in enumerate(zip(commands, environments, strict=True)):
            files = [cwd / f"process{number}.{name}" for name in ("out", "err")]
            out, err = (stack.enter_context(file.open("w")) for file in files)
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=environment(**env),
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            stack.callback(_end, process)
            running.append((process, files))
        while len(ended) < len(running) and time.monotonic() < begin + seconds:
            for process, _ in running:
                if process not in ended and process.poll() is not None:
                    ended[process] = Ended(process.returncode, "", "", time.monotonic() - begin)
            time.sleep(0.05)
    results = []
    for process, (out, err) in running:
        assert process in ended, f"still running after {seconds} s: {err.read_text()}"
        ended[process].stdout, ended[process].stderr = out.read_text(), err.read_text()
        results.append(ended[process])
    return results


def _end(process: subprocess.Popen) -> None:
    """torchrun starts its processes in other sessions; they end when it is asked to end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=40)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
