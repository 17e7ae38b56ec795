"""python -m fpn_neck VERB: every verb is there, and only the one that is asked for is imported."""

import os
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules

import pytest

import fpn_neck
from fpn_neck import __main__ as command
from fpn_neck import cli

PROJECT = Path(fpn_neck.__file__).parents[1]
VERBS = [module.name for module in iter_modules(cli.__path__)]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process: exit code and standard output."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fpn_neck", *arguments])
        with pytest.raises(SystemExit) as stop:
            command.main()
        return stop.value.code, capsys.readouterr().out

    return run


def test_every_verb_says_what_it_takes_with_nothing_installed():
    """And at once: torch and mmengine take seconds."""
    code = (
        "import sys\nfrom fpn_neck.__main__ import main\n"
        f"for verb in {VERBS}:\n"
        "    sys.argv = ['fpn_neck', verb, '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        assert stop.code == 0\n"
    )
    options = dict(env={**os.environ, "PYTHONPATH": str(PROJECT)}, cwd=PROJECT, text=True)
    without_packages = [sys.executable, "-S", "-c", code]
    out = subprocess.run(without_packages, **options, check=True, capture_output=True).stdout
    for verb in VERBS:
        assert f"usage: python -m fpn_neck {verb} " in out


def test_the_help_names_every_verb_and_what_it_does(run):
    code, out = run("--help")
    assert code == 0
    for verb in VERBS:
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [verb])
        assert len(line.split()) > 2


def test_the_version(run):
    assert run("--version") == (0, f"{fpn_neck.__version__}\n")


def test_the_help_imports_no_verb(run_python):
    out = run_python(
        "import sys; sys.argv = ['fpn_neck', '--help']\n"
        "from fpn_neck.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith(('fpn_neck.cli.', 'mmengine'))])\n"
    )
    assert out.splitlines()[-1] == "[]"
