"""Starts tools as forks of a process that has imported the large packages: seconds faster each.

Run as a program, it is that process. A fork has its own arguments, folder and files for its output,
and it ends as a program of its own would. Each fork imports our package from the start.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import torch

# Those that a tool imports in any case; what is absent or broken is left to the tool.
PACKAGES = ("torchvision", "timm", "matplotlib.pyplot", "mmengine.runner")
SECONDS = 900  # for a tool


def can_fork() -> bool:
    """A process that has looked for GPUs cannot use them after a fork."""
    return sys.platform == "linux" and not torch.cuda.is_available()


class Forks:
    """That process, as others use it: it runs one tool at a time.

    Args:
        env: the environment of all tools.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, words: Sequence[str], cwd: Path, out: Path) -> CompletedProcess[str]:
        """Run a script or ``-m`` and a module, and wait for its end; like `subprocess.run`.

        Args:
            words: what would follow ``python``.
            out: a folder for its output.
        """
        files = [str(out / name) for name in ("stdout", "stderr")]
        assert self._server.stdin and self._server.stdout
        print(json.dumps([list(words), str(cwd), *files]), file=self._server.stdin, flush=True)
        returncode = int(self._server.stdout.readline())
        stdout, stderr = (Path(file).read_text() for file in files)
        return CompletedProcess([sys.executable, *words], returncode, stdout, stderr)

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Fork for each line of stdin, and answer with the exit code, or minus the signal."""
    for package in PACKAGES:
        with suppress(ImportError):
            import_module(package)
    gc.freeze()  # a fork shares what its garbage collector leaves alone
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            return become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(words: list[str], cwd: str, stdout: str, stderr: str) -> None:
    """Go on as the script or the module that the words begin with."""
    signal.alarm(SECONDS)
    os.chdir(cwd)
    for number, path in enumerate((os.devnull, stdout, stderr)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], cwd
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve()
