"""python -m fpn_neck VERB: every verb is there, and only the one that is asked for is imported."""

from pkgutil import iter_modules

import pytest

import fpn_neck
from fpn_neck import __main__ as command
from fpn_neck import cli

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


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(run, verb):
    for package in ("mmengine", "rich"):
        pytest.importorskip(package)
    code, out = run(verb, "--help")
    assert code == 0 and out.startswith(f"usage: python -m fpn_neck {verb} ")


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
