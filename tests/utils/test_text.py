"""utils.text: what error messages are made of."""

import pytest

from fpn_neck.utils.text import first_few, one_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b\tc "), "a b c"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        ("a\nb", "a b"),
    ],
    ids=["lines", "no message", "blank", "text"],
)
def test_an_error_in_one_line(error, text):
    assert one_line(error) == text


def test_an_error_with_its_type():
    assert one_line(OSError("a\nb"), with_type=True) == "OSError: a b"
    assert one_line(OSError(), with_type=True) == "OSError"


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (5, "0, 1, 2 and 2 more")]
)
def test_the_first_few_and_how_many_more(count, text):
    assert first_few(range(count)) == text


def test_more_can_be_shown():
    assert first_few(["a", "b", "c"], 1) == "a and 2 more"
