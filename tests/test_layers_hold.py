"""The contracts of the layers in pyproject.toml; `make lint` checks them too."""

from collections import Counter

import pytest
from helpers.project import PROJECT

cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")


def test_every_contract_is_kept(monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    capsys.readouterr()
    result = cli.lint_imports(no_cache=True)
    report = capsys.readouterr().out
    if result != cli.EXIT_STATUS_SUCCESS:
        pytest.fail(report, pytrace=False)
    assert "0 broken" in report


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
