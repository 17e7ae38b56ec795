"""Photos as RGB, without those that would take all memory."""

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fpn_neck.utils.photos import PhotoError, read_photo
from fpn_neck.utils.results.predictor import _photos


def test_a_photo_is_read_as_rgb_and_turned_by_its_exif(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    read = read_photo(tmp_path / "turned.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("turned", [1, 3, 5, 6, 8])
def test_a_turned_tiff_is_the_same_with_and_without_compression(tmp_path, mode, turned):
    small = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((24, 16)).convert("L" if mode == "I;16" else mode)
    image = image.convert(mode)
    read = []
    for name, compression in (("a.tif", None), ("b.tif", "tiff_lzw")):
        image.save(tmp_path / name, compression=compression, tiffinfo={0x0112: turned})
        read.append(read_photo(tmp_path / name))
    assert read[0].shape == ((16, 24, 3) if turned < 5 else (24, 16, 3))
    np.testing.assert_array_equal(*read)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (5, 3), (200, 200, 200)).convert(mode).save(tmp_path / "a.png")
    read = read_photo(tmp_path / "a.png")
    assert read.shape == (3, 5, 3) and np.abs(read.astype(int) - 200).max() <= 4


@pytest.mark.parametrize(
    ("name", "turned"),
    [
        # OpenCV 5.0 turns no TIFF. Its own one does not say that the fourth channel is alpha.
        *((name, 1) for name in ("a.tif", "la.tif", "ycc.tif", "opencv.tif")),
        *((name, turned) for name in ("a.png", "a.webp", "cmyk.jpg") for turned in (1, 6)),
    ],
)
def test_colours_are_those_that_models_are_trained_with(tmp_path, name, turned):
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    mode = {"cmyk.jpg": "CMYK", "la.tif": "LA", "ycc.tif": "YCbCr"}.get(name, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = turned
    options = {"tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}.get(name[-3:], {})
    image = Image.fromarray(values)
    image = image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else image.convert(mode)
    if name == "opencv.tif":
        cv2.imwrite(str(tmp_path / name), values)
    else:
        image.save(tmp_path / name, exif=exif, **options)
    expected = cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    read = read_photo(tmp_path / name)
    assert read.shape == ((20, 30, 3) if turned == 1 else (30, 20, 3))
    assert np.abs(read - expected).max() <= (1 if mode == "CMYK" else 0)
    if turned == 1:
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(_photos(opened)[0], read)


def test_lab_colours_are_refused(tmp_path):
    Image.new("RGB", (5, 3), (200, 100, 50)).convert("LAB").save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match="mode LAB: save it in RGB"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bits_the_higher_8_are_taken(tmp_path, suffix):
    """As OpenCV does; pillow makes white of every value above 255."""
    values = np.array([[0, 255, 256, 1000], [32767, 32768, 65279, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    expected = np.repeat([[[0], [0], [1], [3]], [[127], [128], [254], [255]]], 3, axis=2)
    read = read_photo(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


def test_threads_leave_the_filters_of_warnings(tmp_path):
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_photo, [tmp_path / "a.png"] * 200))
    assert warnings.filters == before


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_of_no_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((3, 4), 0.5, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match="mode [FI]: numbers of no known range"):
        read_photo(tmp_path / "a.tif")


def test_what_is_no_photo_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(PhotoError):
            read_photo(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="not a file"):
        read_photo(tmp_path / "pipe.jpg")


def test_a_small_file_that_declares_too_many_pixels_is_not_decoded(tmp_path):
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 12_000, 9_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(PhotoError, match="12000x9000 px, more than 100 million px"):
        read_photo(tmp_path / "large.png")
