"""What a command says of its user's mistakes."""

import sys
from pkgutil import iter_modules
from subprocess import run

import pytest
from helpers.processes import environment, of_launcher
from helpers.project import PROJECT

from fpn_neck import cli
from fpn_neck.utils import command_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "a b"),
        (FileNotFoundError("a b"), "a b"),
        (TypeError(), "TypeError"),
        (ImportError("a"), "a"),
    ],
)
def test_what_the_user_can_correct_is_one_line_or_the_traceback(capsys, monkeypatch, error, line):
    def main():
        raise error

    monkeypatch.delenv("FPN_NECK_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        command_line.run_tool(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    monkeypatch.setenv("FPN_NECK_TRACEBACK", "1")
    with pytest.raises(type(error)):
        command_line.run_tool(main)


def test_other_errors_keep_their_traceback_and_ctrl_c_its_code():
    def main(error):
        raise error

    with pytest.raises(ZeroDivisionError):
        command_line.run_tool(lambda: main(ZeroDivisionError()))
    with pytest.raises(SystemExit) as stop:
        command_line.run_tool(lambda: main(KeyboardInterrupt()))
    assert stop.value.code == 130


def test_a_missing_package_is_one_line_with_the_remedy(capsys, monkeypatch):
    """Also one that a command imports at its top."""

    def import_module(name):
        assert name == "fpn_neck.cli.train"
        import there_is_no_such_package  # noqa: F401

    monkeypatch.setattr(command_line, "import_module", import_module)
    with pytest.raises(SystemExit) as stop:
        command_line.run_verb("train")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: package there_is_no_such_package is not installed; run pip ")
    assert line.endswith("run pip install 'fpn_neck[mm]'")


def test_help_says_how_to_get_a_traceback():
    text = command_line.command_parser("First line.\n\nSecond part.", "Third.\n").format_help()
    assert "First line.\n\nSecond part.\n" in text
    assert text.index("Third.\n") < text.index("FPN_NECK_TRACEBACK=1")


WITHOUT_MM = """
import runpy, sys
from importlib.machinery import PathFinder
MISSING = {"mmengine", "mmcv", "mmdet", "mmseg", "rich"}

class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in MISSING:
            return PathFinder.find_spec(name, path, target)

sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Installed]
import contextlib, io
for program in PROGRAMS:
    sys.argv = [*program, "--help"]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            if program[0] == "fpn_neck":
                runpy.run_module("fpn_neck", run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    print(program, code, len(out.getvalue()), err.getvalue().splitlines())
    assert code == 0 or code == 2 and len(err.getvalue().splitlines()) == 1, (program, err)
    assert code == 0 or "is not installed; run pip install" in err.getvalue()
"""


def test_without_mmengine_every_tool_gives_its_help_or_one_line(run_python):
    verbs = [module.name for module in iter_modules(cli.__path__)]
    tools = [path for path in sorted((PROJECT / "tools").glob("*.py")) if path.stem in verbs]
    programs = [[str(path)] for path in tools] + [["fpn_neck", verb] for verb in verbs]
    out = run_python(f"PROGRAMS = {programs!r}\n{WITHOUT_MM}").splitlines()
    assert len(out) == len(programs) > 10


ENDS = """
import atexit, os, sys
from mmengine.config import Config
from fpn_neck.mm.distributed.launch import process_group
from fpn_neck.utils.command_line import run_tool

class Aborts:
    def __del__(self, abort=os.abort):
        abort()

kept = Aborts()  # Python's clean-up frees it, as a thread of gloo that still runs then aborts

def main():
    atexit.register(print, "closed")
    with process_group(Config(dict(launcher="pytorch"))):
        {inside}
    return 3

run_tool(main)
"""


@pytest.mark.parametrize(
    ("inside", "code"), [("raise ValueError('a')", 2), ("sys.exit(143)", 143), ("pass", 3)]
)
def test_a_process_that_was_in_a_group_ends_without_cleaning_up(inside, code, tmp_path):
    """The threads of a group that was left run until its last owner is freed."""
    pytest.importorskip("mmengine")
    (variables,) = of_launcher("pytorch", 1)
    done = run(
        [sys.executable, "-c", ENDS.format(inside=inside)],
        capture_output=True,
        text=True,
        env=environment(**variables),
    )
    assert (done.returncode, done.stdout) == (code, "closed\n"), done.stderr
