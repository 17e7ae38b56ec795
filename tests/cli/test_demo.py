"""fpn-neck demo: the page by HTTP and in a browser; limits, refusals, files, no other machine."""

import json
import re
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.demo_page import ask, file_behind, free_port, page_of
from PIL import Image

import fpn_neck
from fpn_neck.cli.demo.answer import Answer
from fpn_neck.datasets.clothing import layout as clothing
from fpn_neck.utils.results.result import Result

for _package in ("gradio", "timm", "safetensors"):
    pytest.importorskip(_package)

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A segmenter of the 59 labels, whose labels differ from pixel to pixel."""
    torch.manual_seed(0)
    made = fpn_neck.Segmenter("resnet10t", 59, neck={"out_channels": 8}, head={"channels": 32})
    torch.nn.init.normal_(made.head.conv_seg.weight, std=3.0)
    folder = tmp_path_factory.mktemp("models") / "model"
    made.save_pretrained(folder, classes=clothing.CLASSES, palette=clothing.PALETTE)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "one.png"
    Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def page(model):
    with page_of(model, "--megapixels", 1, "--megabytes", 1) as (address, _):
        yield address


def test_the_files_are_those_of_predict(page, model, photo):
    _, legend, png, table = ask(page, photo)
    expected = fpn_neck.load(model, device="cpu")(photo)
    saved = Image.open(file_behind(png))
    np.testing.assert_array_equal(np.asarray(saved), expected.labels)
    assert saved.mode == "P"
    content = json.loads(file_behind(table).read_text())
    assert content["areas"] == expected.areas and content["photo"] == "one.png"
    shares = [float(x) for x in re.findall(r"<td>(?:&lt; )?([\d.]+) %</td>", str(legend))]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=2)


def test_the_legend_calls_no_class_0_percent():
    labels = np.zeros((100, 100), np.uint8)
    labels[0, 0], labels[1, :5] = 1, 2
    names, palette = ("a", "b<", "c"), ((0, 0, 0), (255, 0, 0), (0, 0, 255))
    shown = Result(np.zeros((100, 100, 3), np.uint8), names, palette, labels=labels)
    cells = re.findall(r"<td>([^<]+)</td>", Answer(shown).legend())
    assert cells == ["a", "99.9 %", "c", "0.1 %", "b&lt;", "&lt; 0.1 %"]


def test_the_nine_classes_are_the_merged_labels(page, model, photo):
    _, legend, png, table = ask(page, photo, "nine classes")
    labels = fpn_neck.load(model, device="cpu")(photo).labels
    merged = np.asarray(clothing.SUPER_OF)[labels]
    np.testing.assert_array_equal(np.asarray(Image.open(file_behind(png))), merged)
    assert set(json.loads(file_behind(table).read_text())["areas"]) <= {*clothing.SUPER_CLASSES}


def test_opacity_0_is_the_photo_in_grey(page, photo):
    overlay = ask(page, photo, opacity=0)[0]
    path = overlay["path"] if isinstance(overlay, dict) else overlay
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    grey = np.asarray(Image.open(photo)).mean(2)
    assert np.abs(pixels.mean(2) - grey).mean() < 3  # the page's picture is compressed


def test_what_is_no_photo_or_too_large_is_refused(page, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (1200, 1000)).save(tmp_path / "large.png")
    for name, words in (
        ("text.png", "not a readable photo"),
        ("large.png", "1200x1000 px, more than 1 million px"),
    ):
        with pytest.raises(Exception, match=words):
            ask(page, tmp_path / name)


def test_a_file_of_too_many_megabytes_is_not_taken(page, photo):
    import httpx

    for size, code in ((2**20 + 1, 413), (2**19, 200)):
        files = {"files": ("heavy.png", photo.read_bytes() + b"0" * size)}
        assert httpx.post(f"{page}/gradio_api/upload", files=files).status_code == code


def test_the_page_names_no_other_machine_and_its_uploads_go(model, photo, tmp_path, monkeypatch):
    import httpx

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with page_of(model) as (address, process):
        text = httpx.get(address).text
        assert "fonts.googleapis.com/css" not in text
        ask(address, photo)
        (folder,) = tmp_path.glob("fpn_neck-*")
        assert any(folder.rglob("one.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert not folder.exists()


def test_ctrl_c_ends_it_with_130(model):
    with page_of(model) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--host", "300.1.1.1", ["--host 300.1.1.1", "127.0.0.1"]),
        ("--host", "192.0.2.1", ["--host 192.0.2.1", "127.0.0.1"]),  # no machine has it
        ("--port", None, ["in use", "give another port"]),
    ],
)
def test_a_host_or_port_that_cannot_be_used(
    run_words, assert_refused, model, tmp_path, option, value, words
):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        port = free_port() if value else used
        given = ["--port", port, *([option, value] if value else [])]
        done = run_words("-m", "fpn_neck", "demo", model, *given, cwd=tmp_path)
        assert_refused(done, *words)


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not BROWSER:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(browser, page, photo, tmp_path, width):
    """A photo in, an overlay out, another opacity, the nine classes, a download, a refusal."""
    asked = []
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page)
    upload = "#photo input[type=file]"
    tab.wait_for_selector(upload, state="attached")
    tab.set_input_files(upload, photo)
    tab.wait_for_selector("#legend table")
    first = tab.get_attribute("#overlay img", "src")
    classes = tab.locator("#legend tr").count()

    tab.fill("#opacity input[type=number]", "0.1")
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        "before => document.querySelector('#overlay img').src != before", arg=tab.url + first
    )
    tab.get_by_label("nine classes").check()
    tab.wait_for_function(
        "before => document.querySelectorAll('#legend tr').length != before", arg=classes
    )
    names = {row.split("\t")[-2].strip() for row in tab.locator("#legend tr").all_inner_texts()}
    assert names <= {*clothing.SUPER_CLASSES}
    with tab.expect_download() as download:
        tab.click("#labels")
    assert Image.open(download.value.path()).size == (160, 120)
    with tab.expect_download() as download:
        tab.click("#json")
    areas = json.loads(Path(download.value.path()).read_text())["areas"]
    assert areas.keys() == names
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

    (tmp_path / "text.png").write_text("not a picture")
    tab.click("#photo button[aria-label='Clear']")
    tab.set_input_files(upload, tmp_path / "text.png")
    tab.wait_for_selector("text=not a readable photo")
    others = [url for url in asked if not url.startswith((page, "data:", "blob:"))]
    assert others == []
