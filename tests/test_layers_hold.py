"""The contracts of the layers in pyproject.toml; `make lint` checks them too."""

import subprocess
import sys
from collections import Counter

import pytest
from helpers.project import PROJECT

pytest.importorskip("importlinter.cli", reason="import-linter is not installed")

# A process: import-linter closes all logging handlers, and that of absl closes pytest's stderr.
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_every_contract_is_kept():
    command = [sys.executable, "-c", LINT, "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_package_has_at_most_14_entries():
    """`.mim` is for mmengine, which looks for configs and tools there."""
    entries = {path.name for path in (PROJECT / "fpn_neck").iterdir()} - {"__pycache__", ".mim"}
    assert {"__init__.py", "models", "py.typed"} < entries
    assert len(entries) <= 14, sorted(entries)


def test_a_folder_of_the_package_holds_at_most_14_files():
    files = [p for p in (PROJECT / "fpn_neck").rglob("*.py") if "integrations" not in p.parts]
    held = Counter(path.parent.relative_to(PROJECT).as_posix() for path in files)
    assert len(held) > 10
    assert {folder: n for folder, n in held.items() if n > 14} == {}
