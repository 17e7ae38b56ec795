"""fpn-neck report: one HTML file about a training of four steps."""

import re
import shutil

import numpy as np
import pytest

for _package in ("mmseg", "jinja2", "matplotlib"):
    pytest.importorskip(_package)

from fpn_neck.mm.seg.report.confusion import Confusion  # noqa: E402
from fpn_neck.mm.seg.report.page import confusion_shares  # noqa: E402


@pytest.fixture
def work_dir(trained, tmp_path):
    return shutil.copytree(trained.work_dir, tmp_path / "work")


def test_a_page_with_everything_inside(run_tool, work_dir):
    before = {path.name for path in work_dir.iterdir()}
    done = run_tool("report", work_dir, "--photos", 1, cwd=work_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(work_dir / "report.html")
    page = (work_dir / "report.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [a.partition(",")[0] for a in addresses] == [
        "data:image/png;base64",  # curves
        "data:image/png;base64",  # confusion matrix
        "data:image/jpeg;base64",  # the worst photo
        "data:image/jpeg;base64",  # the best one
    ]
    assert "http" not in page
    assert "4 photos" in page and "<td>mIoU_occurring</td>" in page
    assert {path.name for path in work_dir.iterdir()} == {*before, "report", "report.html"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: shutil.rmtree(d), ["no such folder"]),
        (lambda d: [f.unlink() for f in d.glob("*.py")], ["must hold one config", "--config"]),
        (lambda d: [f.unlink() for f in d.glob("*.pth")], ["--checkpoint"]),
    ],
    ids=["no folder", "no config", "no checkpoint"],
)
def test_what_is_missing_is_named(call_tool, assert_refused, work_dir, change, words):
    change(work_dir)
    (work_dir / "last_checkpoint").unlink(missing_ok=True)
    assert_refused(call_tool("report", work_dir), *words)


def test_where_nothing_can_be_written_is_said_at_once(call_tool, assert_refused, work_dir):
    assert_refused(call_tool("report", work_dir, "--out", work_dir), "is a folder")
    file = next(work_dir.glob("*.py"))
    assert_refused(call_tool("report", work_dir, "--out", file / "a.html"), f"{file}: nothing")
    assert not (work_dir / "report").exists()  # no test run was begun


def test_the_confusion_matrix_has_the_labels_that_are_only_predicted():
    found = Confusion(4)
    found.pixels = np.array([[2, 1, 0, 1], [0, 0, 0, 0], [0, 3, 6, 3], [0, 0, 0, 0]])
    rows, columns, shares = confusion_shares(found)
    assert (rows, columns) == ([2, 0], [2, 0, 1, 3])
    assert shares.tolist() == [[0.5, 0, 0.25, 0.25], [0, 0.5, 0.25, 0.25]]
