"""make docs: the pages become a site that has no broken link and loads nothing from outside."""

import os
import re
import subprocess
import sys

import pytest
from helpers.project import PROJECT

# What a browser loads by itself; links that the reader follows are allowed.
LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//|url\(\"?(?:https?:)?//")
STYLES = re.compile(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    pages = {p.relative_to(PROJECT / "docs") for p in (PROJECT / "docs").rglob("*.md")}
    built = {p.relative_to(site) for p in site.rglob("*.html")}
    assert {page.with_suffix(".html") for page in pages} <= built


def test_the_site_loads_nothing_from_the_network(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        assert not LOADED.search(text) and not STYLES.search(text), path


def test_the_docstrings_are_in_the_reference(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference/api.html").read_text())
    for words in (
        "A 1x1 lateral convolution brings",
        "num_outs",
        "Semantic segmentation of images",
    ):
        assert words in text, words
