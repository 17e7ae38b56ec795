"""A running page of `fpn-neck demo`, and what it answers."""

import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from helpers.project import PROJECT


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def page_of(*arguments):
    """The address of a running page, and its process."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "fpn_neck", "demo", *map(str, arguments)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(30)


def ask(address, path, kind="59 classes", opacity=0.65):
    """(overlay, legend, PNG, JSON) by gradio's client."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False)
    return client.predict(handle_file(str(path)), kind, opacity, api_name="/predict")


def file_behind(button):
    return Path(button["value"] if isinstance(button, dict) else button)
