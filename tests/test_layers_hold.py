"""The contracts of the layers in pyproject.toml; `make lint` checks them too."""

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
