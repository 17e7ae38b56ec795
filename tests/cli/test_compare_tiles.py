"""tools/compare_tiles.py: how many labels tiles change."""

import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def large_photo(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    photo = Image.fromarray(colours).resize((1150, 1100), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_a_photo_of_more_than_two_tiles(call_tool, trained, varied, large_photo):
    whole = ["--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(1150,1100)"]
    done = call_tool("compare_tiles", trained.config, varied, large_photo, "--tile", 768, *whole)
    assert done.returncode == 0, done.stderr
    alike, size = re.search(r"large.png: ([\d.]+) % of (\w+) px alike", done.stdout).groups()
    assert size == "1100x1150"
    assert 98 < float(alike) < 100  # lite0 looks a little farther than a tile's margin


def test_a_tile_without_room_for_margins(call_tool, assert_refused, trained, varied, large_photo):
    done = call_tool("compare_tiles", trained.config, varied, large_photo, "--tile", 100)
    assert_refused(done, "tile", "100", "768")


def test_a_config_that_turns_tiles_off(call_tool, assert_refused, trained, varied, large_photo):
    """It would compare a whole photo with a whole photo."""
    off = ["--cfg-options", "model.test_cfg.tile=None"]
    done = call_tool("compare_tiles", trained.config, varied, large_photo, *off)
    assert_refused(done, "test_cfg.tile is None", "--tile")
    done = call_tool("compare_tiles", trained.config, varied, large_photo, "--tile", 0)
    assert_refused(done, "tile=0", "768")


def test_a_detector(call_tool, assert_refused, varied, large_photo, write_config):
    config = write_config("detector", "default_scope = 'mmdet'\nmodel = dict(type='RPN')\n")
    done = call_tool("compare_tiles", config, varied, large_photo)
    assert_refused(done, "default_scope", "mmseg")


def test_an_unreadable_photo_is_named_and_the_others_are_done(
    call_tool, trained, varied, large_photo
):
    empty = large_photo.with_name("empty.jpg")
    empty.touch()
    done = call_tool("compare_tiles", trained.config, varied, empty, large_photo, "--tile", 2048)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{empty}: ") and len(done.stderr.splitlines()) == 1
    assert done.stdout == f"{large_photo}: not in tiles, nothing to compare\n"


def test_a_config_without_a_model(call_tool, assert_refused, varied, large_photo, write_config):
    config = write_config("bare", "default_scope = 'mmseg'")
    assert_refused(call_tool("compare_tiles", config, varied, large_photo), "config: model=None")
