"""What a command says of its user's mistakes."""

import pytest

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
    assert "'fpn_neck[mm]'" in line and "-e '.[mm]'" in line


def test_help_says_how_to_get_a_traceback():
    text = command_line.command_parser("First line.\n\nSecond part.", "Third.\n").format_help()
    assert "First line.\n\nSecond part.\n" in text
    assert text.index("Third.\n") < text.index("FPN_NECK_TRACEBACK=1")
