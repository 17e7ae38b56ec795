"""Learning curves from mmengine's scalars, also of resumed runs."""

import json

import numpy as np
import pytest
from PIL import Image

from fpn_neck.mm.curves import draw_curves, read_scalars


def write_run(work_dir, timestamp, rows):
    folder = work_dir / timestamp / "vis_data"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "scalars.json").write_text(text)


def test_reads_every_number_under_its_name(tmp_path):
    rows = [{"lr": 0.1, "loss": 2.0, "iter": 1, "step": 1}, {"mIoU": 5.5, "step": 2}]
    write_run(tmp_path, "20260101_000000", rows)
    assert read_scalars(tmp_path) == {
        "lr": [(1, 0.1)],
        "loss": [(1, 2.0)],
        "iter": [(1, 1)],
        "mIoU": [(2, 5.5)],
    }


def test_a_resumed_run_replaces_the_steps_it_did_again(tmp_path):
    """Stopped after step 3, resumed from the checkpoint of step 1."""
    write_run(tmp_path, "20260101_000000", [{"loss": 3.0 - s, "step": s} for s in (1, 2, 3)])
    write_run(tmp_path, "20260101_000100", [{"loss": 10.0 * s, "step": s} for s in (2, 3, 4)])
    assert read_scalars(tmp_path)["loss"] == [(1, 2.0), (2, 20.0), (3, 30.0), (4, 40.0)]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    """The first run went farther than the second one did so far."""
    write_run(tmp_path, "20260101_000000", [{"loss": 1.0, "step": s} for s in (1, 2, 3, 4)])
    write_run(tmp_path, "20260101_000100", [{"loss": 2.0, "step": 3}])
    assert read_scalars(tmp_path)["loss"] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_new_run_replaces_the_old_one(tmp_path):
    write_run(tmp_path, "20260101_000000", [{"old_loss": 1.0, "step": s} for s in (1, 2, 3)])
    write_run(tmp_path, "20260101_000100", [{"loss": 2.0, "step": 1}])
    assert read_scalars(tmp_path) == {"loss": [(1, 2.0)]}


def test_a_resumed_run_that_counts_epochs_keeps_the_losses_before_it(tmp_path):
    """mmdet's runs give the losses' steps in iterations and the metrics' in epochs."""
    first = [{"loss": 9.0 - s, "step": s} for s in (2, 4, 6)] + [{"mAP": 0.1, "step": 1}]
    second = [{"loss": 9.0 - s, "step": s} for s in (8, 10, 12)] + [{"mAP": 0.2, "step": 2}]
    write_run(tmp_path, "20260101_000000", first)
    write_run(tmp_path, "20260101_000100", second)
    series = read_scalars(tmp_path)
    assert series["mAP"] == [(1, 0.1), (2, 0.2)]
    assert series["loss"] == [(s, 9.0 - s) for s in (2, 4, 6, 8, 10, 12)]


def test_a_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path):
    write_run(tmp_path, "20260101_000000", [{"loss": 1.0, "step": 1}])
    file = tmp_path / "20260101_000000/vis_data/scalars.json"
    file.write_text(file.read_text() + '{"loss": 2.0, "st')
    assert read_scalars(tmp_path) == {"loss": [(1, 1.0)]}


def test_steps_are_in_order_whatever_the_order_of_the_rows(tmp_path):
    write_run(tmp_path, "20260101_000000", [{"loss": 1.0, "step": s} for s in (9, 100, 20)])
    assert [s for s, _ in read_scalars(tmp_path)["loss"]] == [9, 20, 100]


def test_other_values_are_left_out(tmp_path):
    write_run(tmp_path, "20260101_000000", [{"name": "a", "list": [1], "step": 1}])
    assert read_scalars(tmp_path) == {}


@pytest.mark.parametrize("folders", [[], ["20260101_000000/vis_data"], ["pictures"]])
def test_a_work_dir_without_scalars_is_empty(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert read_scalars(tmp_path) == {}


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def coloured(path):
    """Number of coloured pixels in the left and in the right half: those of curves."""
    pixels = drawn(path)
    colour = pixels.max(2) - pixels.min(2) > 30
    half = colour.shape[1] // 2
    return np.count_nonzero(colour[:, :half]), np.count_nonzero(colour[:, half:])


def test_losses_stand_left_and_metrics_right(tmp_path):
    points = [(1, 1.0), (2, 5.0), (3, 2.0)]
    series = {"loss": points, "decode.loss_ce": points, "mIoU": points}
    found = []
    for names in ([], ["loss"], ["loss", "decode.loss_ce"], ["mIoU"]):
        draw_curves({n: series[n] for n in names}, tmp_path / "a.png")
        found.append(coloured(tmp_path / "a.png"))
    nothing, loss, losses, metric = found
    assert nothing == (0, 0)
    assert loss[0] > 500 and loss[1] == 0
    assert losses[0] > loss[0] and losses[1] == 0
    assert metric[0] == 0 and metric[1] > 500


def test_only_losses_and_known_metrics_are_drawn(tmp_path):
    draw_curves({"lr": [(1, 1.0)], "time": [(1, 2.0)]}, tmp_path / "a.png")
    assert coloured(tmp_path / "a.png") == (0, 0)
    draw_curves({"time": [(1, 2.0), (2, 3.0)]}, tmp_path / "a.png", metrics=["time"])
    assert coloured(tmp_path / "a.png")[1] > 500


def test_not_a_number_does_not_stop_the_drawing(tmp_path):
    write_run(tmp_path, "20260101_000000", [{"loss": float("nan"), "step": 1}])
    draw_curves(read_scalars(tmp_path), tmp_path / "a.png")
    assert coloured(tmp_path / "a.png")[0] < 500  # the legend's line alone
