"""What the reference pages say of code: arguments, lines and messages are there."""

import ast
import inspect
import re

import pytest
from helpers.project import PROJECT

REFERENCE = PROJECT / "docs/reference"
CODE = re.compile(r"`([^`]+)`")


def rows(page, heading=None):
    """The rows of a page's tables, or of the table whose first line begins with ``heading``."""
    text = (REFERENCE / page).read_text()
    if heading:
        text = text[text.index(f"| {heading}") :].split("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return [row for row in cells if "---" not in row[0]][1 if heading else 0 :]


def their_arguments(heading):
    return {name for row in rows("migration.md", heading) for name in CODE.findall(row[0])}


def arguments_of(*functions):
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return names - {"self", "kwargs"}


def test_lines_of_equations_are_in_their_files():
    found = [row for row in rows("equations.md") if row[1] != "file"]
    assert len(found) > 15
    for _, file, line in found:
        text = (PROJECT / CODE.findall(file)[0]).read_text()
        assert CODE.findall(line)[0] in text, line


def test_every_argument_of_mmdets_fpn_stands_in_the_table():
    necks = pytest.importorskip("mmdet.models.necks")
    from fpn_neck import FPN

    table = their_arguments("mmdet.FPN")
    assert table == arguments_of(necks.FPN.__init__)
    assert table | {"smooth", "top_down", "laterals"} == arguments_of(FPN)


def test_every_argument_of_mmsegs_head_stands_in_the_table():
    heads = pytest.importorskip("mmseg.models.decode_heads")
    base = heads.decode_head.BaseDecodeHead
    expected = arguments_of(heads.FPNHead.__init__, base.__init__)
    assert their_arguments("mmseg.FPNHead") == expected


def test_every_argument_of_smps_fpn_stands_in_the_table():
    smp = pytest.importorskip("segmentation_models_pytorch")
    assert their_arguments("smp.FPN") == arguments_of(smp.FPN.__init__)


def test_every_argument_of_torchvisions_pyramids_stands_in_the_table():
    ops = pytest.importorskip("torchvision.ops")
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    expected = arguments_of(ops.FeaturePyramidNetwork.__init__)
    assert their_arguments("torchvision.ops") == expected
    assert their_arguments("torchvision's resnet") == arguments_of(resnet_fpn_backbone)


def texts_of_the_package():
    """Every text of the code, with … for its values; texts that stand side by side are one."""
    for path in (PROJECT / "fpn_neck").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                yield "".join(map(str, parts))


def test_messages_of_the_errors_page_are_in_the_code():
    texts = list(texts_of_the_package())
    messages = [row for row in rows("errors.md") if row[0] != "message" and "own)" not in row[0]]
    assert len(messages) > 30
    for row in messages:
        parts = [re.escape(part) for part in CODE.findall(row[0])[0].split("…")]
        assert any(re.search(".*".join(parts), text, re.DOTALL) for text in texts), row[0]
