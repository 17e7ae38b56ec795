"""Which order of memory, tiles and offsets a kernel takes; when kernels are available."""

import pytest
import torch

from fpn_neck.fast.cuda.axis import sum_equal_taps
from fpn_neck.fast.cuda.layout import is_class_last, needs_int64, pixel_tile


def test_offsets_are_as_wide_as_the_map_needs():
    """Without such a map: one number, seen through strides."""
    number = torch.zeros(())
    assert not needs_int64(number.expand(4, 100, 500, 500), 500 * 500)
    shape = 1, 100, 4000, 5368
    below = torch.empty(shape, device="meta")  # 2 ** 31 - 283648 numbers
    above = torch.empty((1, 100, 4000, 5369), device="meta")
    assert not needs_int64(below, 1) and needs_int64(above, 1)
    assert needs_int64(above.to(memory_format=torch.channels_last), 1)
    assert not needs_int64(torch.empty((9, *shape[1:]), device="meta"), 1)  # images are apart
    assert needs_int64(number.expand(1, 2, 3, 4), 1 << 31)
    assert not needs_int64(number.expand(1, 2, 3, 4), (1 << 31) - 1)


@pytest.mark.parametrize("taps", [1, 2, 3, 4])
def test_tiles_follow_the_layout(taps):
    x = torch.zeros(2, 5, 3, 4)
    assert not is_class_last(x) and pixel_tile(x, taps).classes == 1
    last = x.contiguous(memory_format=torch.channels_last)
    assert is_class_last(last) and pixel_tile(last, taps).classes == 8
    assert not is_class_last(last[:, :1])  # one class is in both orders
    for tile in (pixel_tile(x, taps), pixel_tile(last, taps)):
        assert tile.classes * tile.rows * tile.columns == (512 if taps <= 2 else 256)


def test_merged_taps_are_the_same_resizing():
    indices = torch.tensor([[0, 1, 1, 2], [1, 2, 2, 3], [3, 3, 3, 3]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]])
    short, sums = sum_equal_taps(indices, weights)
    assert short.tolist() == [[0, 1, 2], [2, 2, 2], [3, 3, 3]]
    torch.testing.assert_close(
        sums, torch.tensor([[0.1, 0.5, 0.4], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    )
    far = torch.tensor([[0, 1, 5, 6]])
    assert sum_equal_taps(far, torch.full((1, 4), 0.25))[0] is far


@pytest.mark.parametrize(("interpreter", "expected"), [("1", "True"), ("0", "False")])
def test_kernels_are_available_without_a_gpu_only_in_the_interpreter(
    interpreter, expected, run_python, monkeypatch
):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", interpreter)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_python("import fpn_neck.fast.cuda as c; print(c.available())").strip() == expected


def test_the_package_does_not_import_triton(run_python):
    code = "import sys, fpn_neck, fpn_neck.fast.cuda.labels, fpn_neck.fast.cuda.losses\n"
    assert run_python(code + "print('triton' in sys.modules)").strip() == "False"
