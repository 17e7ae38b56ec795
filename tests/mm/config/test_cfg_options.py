"""--cfg-options: what mmengine reads, and what it would read wrongly or without an end."""

from argparse import ArgumentParser

import pytest

pytest.importorskip("mmengine")

from fpn_neck.mm.config.arguments import add_common_arguments  # noqa: E402


def options(*texts):
    parser = ArgumentParser()
    add_common_arguments(parser)
    return parser.parse_args(["config.py", "--cfg-options", *texts]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("None", None),
        ("a,b", ["a", "b"]),
        ("[[1,2],3]", [[1, 2], 3]),
        ("(1,(2,x))", (1, (2, "x"))),
        ("[]", []),
        ("", ""),
        ("epoch_{}.pth", "epoch_{}.pth"),
        ("/data (1)/{split},b", ["/data(1)/{split}", "b"]),
        ("mydict(1)", "mydict(1)"),
    ],
)
def test_values_that_mmengine_reads(text, value):
    assert options(f"a.b={text}", "c=1") == {"a.b": value, "c": 1}


@pytest.mark.parametrize(
    "text",
    [
        "dict(type=X,size=1)",  # a RecursionError of mmengine
        "dict(type=X)",  # the text 'dict(type=X)'
        "[dict(type=X)]",
        "1,dict(a=1,b=2)",
        "{'x':1,'y':2}",
        "{x: 1}",
        "'dict(type=X)'",
    ],
)
def test_a_dict_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError) as caught:
        options(f"model.neck={text}")
    assert f"--cfg-options model.neck={text}: a dict can't be given" in str(caught.value)
    assert "model.neck.type=NAME" in str(caught.value)


@pytest.mark.parametrize("text", ["(1,2", "[", "[1,2],[3,4]", "(1,2),(3,4)", "x)y,(z", "f(1,2)"])
def test_brackets_that_mmengine_cannot_read_are_refused(text):
    with pytest.raises(ValueError) as caught:
        options(f"a={text}")
    assert f"--cfg-options a={text}: expected" in str(caught.value)
    assert "[[1,2],[3,4]]" in str(caught.value)
