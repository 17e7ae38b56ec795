"""Overlays, label files and the side-by-side picture."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from fpn_neck.utils.results.pictures import (
    default_palette,
    overlay,
    paint,
    save_labels,
    side_by_side,
)

PALETTE = [[40, 40, 40], [200, 0, 0], [0, 200, 0]]
CLASSES = ("background", "red", "green")


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


# -------------------------------------------------------------------------------------- overlay


def test_overlay_mixes_the_photo_in_grey_with_the_colour(photo):
    labels = np.zeros((5, 7), np.uint8)
    labels[0, 0], labels[1, 2] = 1, 2
    painted = overlay(photo, labels, PALETTE)
    assert painted.shape == photo.shape and painted.dtype == np.uint8
    grey = photo.mean(2, keepdims=True)
    expected = 0.35 * grey + 0.65 * np.array(PALETTE)[labels]
    assert np.abs(painted - expected).max() <= 0.5 + 1e-3  # rounding to whole numbers


@pytest.mark.parametrize(("dtype", "ignored"), [(np.uint8, 255), (np.int64, -1), (np.int64, 3)])
def test_overlay_leaves_labels_outside_the_palette_unpainted(photo, dtype, ignored):
    labels = np.zeros((5, 7), dtype)
    labels[2, 3] = ignored
    painted = overlay(photo, labels, PALETTE)
    assert (painted[2, 3] == photo[2, 3]).all()
    assert (painted[2, 2] != photo[2, 2]).any()


def test_overlay_does_not_change_its_arguments(photo):
    before, labels = photo.copy(), np.ones((5, 7), np.uint8)
    overlay(photo, labels, PALETTE)
    assert (photo == before).all() and (labels == 1).all()


def test_overlay_refuses_other_sizes(photo):
    with pytest.raises(ValueError, match=r"\(5, 7, 3\).*\(7, 5\)"):
        overlay(photo, np.zeros((7, 5), int), PALETTE)


# ---------------------------------------------------------------------------------------- paint


def test_paint_gives_every_label_its_colour_and_ignored_ones_white():
    labels = np.array([[0, 1, 2], [3, 255, -1]])
    painted = paint(labels, PALETTE)
    assert painted.dtype == np.uint8
    assert painted.tolist() == [PALETTE, [[255, 255, 255]] * 3]


# ---------------------------------------------------------------------------------- label files


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize(("highest", "bits"), [(1, 8), (58, 8), (255, 8), (256, 16), (65535, 16)])
def test_label_png_reads_back_exactly(tmp_path, dtype, highest, bits):
    labels = np.random.default_rng(0).integers(0, highest + 1, (9, 13)).astype(dtype)
    labels[0, 0] = highest
    save_labels(labels, tmp_path / "a.png")
    read = Image.open(tmp_path / "a.png")
    assert read.mode == ("L" if bits == 8 else "I;16")
    assert (np.asarray(read) == labels).all()


def test_label_png_keeps_its_bits_for_opencv(tmp_path):
    """The frameworks read label files with OpenCV."""
    cv2 = pytest.importorskip("cv2")
    for labels in (np.array([[0, 3, 255]]), np.array([[0, 256, 40000]])):
        save_labels(labels, tmp_path / "a.png")
        assert (cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED) == labels).all()


def test_people_see_the_palette_and_programs_read_the_labels(tmp_path):
    labels = np.array([[0, 1], [2, 2]])
    save_labels(labels, tmp_path / "a.png", PALETTE)
    read = Image.open(tmp_path / "a.png")
    assert read.mode == "P"
    np.testing.assert_array_equal(np.asarray(read), labels)
    np.testing.assert_array_equal(np.asarray(read.convert("RGB")), np.array(PALETTE)[labels])


def test_more_than_256_colours_are_a_grey_png_of_16_bits(tmp_path):
    labels = np.array([[0, 299]])
    save_labels(labels, tmp_path / "a.png", default_palette(300))
    read = Image.open(tmp_path / "a.png")
    assert read.mode == "I;16" and np.asarray(read).tolist() == [[0, 299]]


def test_colours_for_labels_without_any_differ():
    colours = np.array(default_palette(60), int)
    assert colours.min() >= 0 and colours.max() <= 255
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 999 * np.eye(60, dtype=int)
    assert apart.min() > 5 and np.diag(apart, 1).min() > 100


def test_label_png_of_one_pixel(tmp_path):
    save_labels(np.zeros((1, 1), np.int64), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0]]


# --------------------------------------------------------------------------------- side by side


@pytest.fixture
def big():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)


def contains(picture: Image.Image, panel: np.ndarray, x: int) -> bool:
    """Whether the panel stands in the picture at column x, in some row."""
    pixels = np.asarray(picture)
    h, w = panel.shape[:2]
    rows = range(pixels.shape[0] - h + 1)
    return any((pixels[y : y + h, x : x + w] == panel).all() for y in rows)


def columns_of(picture: Image.Image, colour) -> np.ndarray:
    return np.flatnonzero((np.asarray(picture) == np.array(colour)).all(-1).any(0))


def test_panels_stand_in_order_and_untouched(big):
    truth, prediction = np.zeros((80, 60), int), np.ones((80, 60), int)
    picture = side_by_side(big, {"truth": truth, "prediction": prediction}, CLASSES, PALETTE)
    panels = [big, overlay(big, truth, PALETTE), overlay(big, prediction, PALETTE)]
    starts = [next(x for x in range(picture.width) if contains(picture, p, x)) for p in panels]
    assert starts == sorted(starts)
    assert all(b - a >= 60 for a, b in zip(starts, starts[1:], strict=False))  # no overlap


def test_legend_names_what_occurs_in_any_map(big):
    zeros, ones = np.zeros((80, 60), int), np.ones((80, 60), int)
    picture = side_by_side(big, {"truth": zeros, "prediction": ones}, CLASSES, PALETTE)
    panels = 3 * 60
    assert (columns_of(picture, PALETTE[0]) > panels).any()
    assert (columns_of(picture, PALETTE[1]) > panels).any()
    assert not (columns_of(picture, PALETTE[2]) > panels).any()


@pytest.mark.parametrize(("dtype", "ignored"), [(np.uint8, 255), (np.int64, -1), (np.int64, 3)])
def test_legend_leaves_ignored_labels_out(big, dtype, ignored):
    labels = np.ones((80, 60), dtype)
    with_ignored = labels.copy()
    with_ignored[0, 0] = ignored
    plain = side_by_side(big, {"truth": labels}, CLASSES, PALETTE)
    picture = side_by_side(big, {"truth": with_ignored}, CLASSES, PALETTE)
    assert picture.size == plain.size
    x0, y0, x1, y1 = ImageChops.difference(picture, plain).getbbox()
    assert (x1 - x0, y1 - y0) == (1, 1)  # the ignored pixel and nothing else


def test_legend_of_many_labels_fits(big):
    """59 labels in a picture that is lower than its legend."""
    classes = [f"label number {i}" for i in range(59)]
    palette = [[i, 255 - i, 128] for i in range(59)]
    labels = np.arange(80 * 60).reshape(80, 60) % 59
    picture = side_by_side(big[:, :, ::-1], {"prediction": labels}, classes, palette)
    found = {tuple(c) for c in np.asarray(picture)[:, 2 * 60 :].reshape(-1, 3).tolist()}
    assert all(tuple(c) in found for c in palette)
    # Below and to the right of the last name there is paper: nothing was cut off.
    assert (np.asarray(picture)[-1] == 255).all() and (np.asarray(picture)[:, -1] == 255).all()


def test_everything_ignored_has_no_legend(big):
    picture = side_by_side(big, {"truth": np.full((80, 60), 255)}, CLASSES, PALETTE)
    assert contains(picture, big, 0)


def test_without_a_photo_the_maps_stand_alone(big):
    truth, prediction = np.zeros((80, 60), int), np.ones((80, 60), int)
    maps = {"truth": truth, "prediction": prediction}
    picture = side_by_side(None, maps, CLASSES, PALETTE)
    assert picture.width < side_by_side(big, maps, CLASSES, PALETTE).width
    for labels in maps.values():
        panel = paint(labels, PALETTE)
        assert any(contains(picture, panel, x) for x in range(picture.width - 60))


def test_an_overlay_can_stand_alone_and_show_more_of_the_photo(big):
    labels = np.ones((80, 60), int)
    both = side_by_side(big, {"prediction": labels}, CLASSES, PALETTE, opacity=0.25)
    alone = side_by_side(
        big, {"prediction": labels}, CLASSES, PALETTE, opacity=0.25, with_photo=False
    )
    assert alone.width < both.width and not contains(alone, big, 0)
    panel = overlay(big, labels, PALETTE, 0.25)
    assert contains(alone, panel, 0)
    grey = big.mean(2, keepdims=True)
    assert np.abs(panel - (0.75 * grey + 0.25 * np.array(PALETTE[1]))).max() <= 0.5 + 1e-3


def test_the_legend_grows_with_the_photo():
    def swatch(height, width):
        labels = np.ones((height, width), np.uint8)
        picture = side_by_side(
            np.zeros((height, width, 3), np.uint8), {"prediction": labels}, CLASSES, PALETTE
        )
        return len(columns_of(picture.crop((2 * width, 0, *picture.size)), PALETTE[1]))

    assert swatch(300, 400) < 20
    assert swatch(2000, 3000) > 60


@pytest.mark.parametrize("width", [1, 20])
def test_titles_of_a_small_photo_do_not_overlap(width):
    photo, labels = np.full((9, width, 3), 200, np.uint8), np.full((9, width), 255)  # no legend
    alone = np.asarray(side_by_side(photo, {}, CLASSES, PALETTE))[:16]
    both = np.asarray(side_by_side(photo, {"prediction": labels}, CLASSES, PALETTE))[:16]
    end = np.flatnonzero((alone < 128).any((0, 2)))[-1] + 2  # of the word
    assert end > width
    np.testing.assert_array_equal(both[:, :end], alone[:, :end])
    assert (both[:, end:] < 128).any()
