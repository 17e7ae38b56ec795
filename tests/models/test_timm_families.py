"""Every family of timm in TimmBackbone is right at odd sizes, or refused.

`helpers.timm_families` measures a model, and writes docs/timm-families.md.
"""

import re

import pytest
import torch
from helpers.project import PROJECT

timm = pytest.importorskip("timm", reason="timm is not installed: pip install fpn_neck[timm]")

from helpers.timm_families import (  # noqa: E402
    centre,
    examine,
    examine_elsewhere,
    families,
    offsets,
    result,
    smallest,
)

from fpn_neck.models.timm_backbone import TimmBackbone  # noqa: E402

DOCUMENT = (PROJECT / "docs/timm-families.md").read_text()
ROWS = re.findall(r"^\| (\w+) \| (\w+) \| `(\S+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
TABLE = {(module, word): (name, text) for module, word, name, text in ROWS}
VERSION = re.search(r"timm (\d\S+\d)", DOCUMENT)[1]
# A dot is seen less than this far from its place. Nets that add coarse maps to fine ones (HRNet)
# may be half a cell of the coarsest map off, and even kernels (CPUBone) move a map by a cell.
CELLS, PIXELS = 1.5, 16


def assert_built_right_or_refused(name, found):
    if "refused" in found:
        assert repr(name) in found["refused"]
        return
    assert found["wrong_sizes"] == []
    for off, stride in zip(found["off"], found["strides"], strict=True):
        assert off < CELLS or off * stride < PIXELS, (stride, off)


@pytest.mark.slow
@pytest.mark.parametrize("family", families(), ids="-".join)
def test_a_family_is_built_right_or_refused(family):
    """In a process of its own, since a fault in torch ends it."""
    name, expected = TABLE.get(family) or (smallest(families()[family]), None)
    (found,) = examine_elsewhere([name])
    assert "failed" not in found, found
    assert_built_right_or_refused(name, found)
    if expected and timm.__version__ == VERSION:
        assert result(found).split("; off")[0] == expected.split("; off")[0]


def test_the_table_has_every_family():
    assert len(TABLE) == len(ROWS) > 150
    if timm.__version__ == VERSION:
        assert set(TABLE) == set(families())
    numbers = re.search(r"(\d+) of (\d+) are built", DOCUMENT).groups()
    built = [text for _, text in TABLE.values() if text.startswith("strides")]
    assert numbers == (str(len(built)), str(len(ROWS)))
    assert all(text.startswith(("strides", "refused: ")) for _, text in TABLE.values())
    assert "WRONG" not in DOCUMENT


@pytest.mark.parametrize("family", [("resnet", "resnet"), ("beit", "beit")], ids="-".join)
def test_the_table_is_what_is_found(family):
    """Two rows of it; all of them: slow."""
    name, expected = TABLE[family]
    found = examine(name)
    assert_built_right_or_refused(name, found)
    assert result(found).split("; off")[0] == expected.split("; off")[0]


def test_a_map_that_lies_elsewhere_is_seen():
    """The measure itself: maps moved by three cells."""
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet18", out_indices=(1, 2)).eval()
    before = offsets(backbone, (160, 192))
    forward = backbone.forward
    backbone.forward = lambda x: [torch.roll(m, (3, 3), (2, 3)) for m in forward(x)]
    moved = offsets(backbone, (160, 192))
    assert all(x < CELLS for x in before)
    assert all(2 < b < 4.5 for b in moved)


def test_the_centre_of_one_cell_is_half_a_cell_from_its_corner():
    weights = torch.zeros(4, 6)
    weights[1, 4] = 2
    assert centre(weights).tolist() == [1.5, 4.5]
