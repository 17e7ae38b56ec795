"""tools/benchmarks: what they measure; contestants that compute something else are refused."""

import json
import time
from pathlib import Path

import pytest
import torch
from benchmark import print_sweep
from benchmarks import measure, necks, report
from benchmarks.contestants import PLAIN, build_contestants, check
from benchmarks.goals import GOALS, MEASUREMENTS, goal_table
from benchmarks.heads import HeadCase
from benchmarks.labels import LabelsCase
from benchmarks.losses import DiceLossCase, LossCase
from benchmarks.necks import NeckCase, Ratio, sweep
from benchmarks.recipes import RECIPES, measure_recipe
from benchmarks.recipes import build_contestants as build_recipe
from benchmarks.segmenters import SegmenterCase

from fpn_neck import fast

CASE = {"backbone": "tf_efficientnet_lite0", "height": 64, "width": 96}


def ours_and_torchvisions(name):
    return name in ("fpn_neck", "torchvision")


def test_contestants_compute_the_same():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    entered, missing = build_contestants(NeckCase(**CASE), ours_and_torchvisions)
    assert [c.name for c in entered] == ["fpn_neck", "torchvision"] and not missing
    assert all(0 < c.error < 1e-5 for c in entered)
    for c in entered:
        c.step()
        assert [tuple(y.shape) for y in c.run()] == [
            (1, 256, 16, 24),
            (1, 256, 8, 12),
            (1, 256, 4, 6),
            (1, 256, 2, 3),
        ]


@pytest.mark.parametrize("kind", [HeadCase, SegmenterCase])
def test_heads_and_segmenters_are_mmsegs_and_take_steps(kind):
    for name in ("mmseg", "timm"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    case = kind(**CASE, batch=2, classes=7)
    entered, missing = build_contestants(case, lambda name: "," not in name and name != "smp")
    assert [c.name for c in entered][:2] == ["fpn_neck", "mmseg"] and not missing
    assert len(entered) == {HeadCase: 2, SegmenterCase: 3}[kind]
    for c in entered:
        assert c.error < 1e-3
        c.step()
    ours, theirs = (torch.as_tensor(c.run()[0]) for c in entered[:2])
    assert ours.shape == theirs.shape and len(ours.unique()) > 2
    if kind is HeadCase:  # a segmenter's step has moved the statistics of batch norm
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)


def test_label_maps_agree_and_take_no_step():
    entered, _ = build_contestants(LabelsCase(**CASE, classes=7), lambda name: "," not in name)
    assert [c.name for c in entered] == ["fpn_neck", "mmseg"]
    assert all(c.step is None and c.error < 1e-3 for c in entered)
    assert [tuple(c.run()[0].shape) for c in entered] == [(1, 64, 96)] * 2


def test_contestants_that_round_say_so_and_what_is_not_installed_is_named():
    pytest.importorskip("mmdet", reason="mmdet is not installed")
    entered, missing = build_contestants(NeckCase(**CASE), lambda name: "OpenVINO" in name)
    names = [f"mmdet, OpenVINO{rounded}" for rounded in ("", ", bfloat16", ", int8")]
    installed = [c.name for c in entered]
    assert [*installed, *(text.partition(":")[0] for text in missing)] == names
    assert all("not installed" in text for text in missing)
    assert {c.arithmetic for c in entered} <= {None, "bfloat16", "int8"}
    errors = [c.error for c in entered]
    assert errors == sorted(errors)  # rougher and rougher


@pytest.mark.parametrize("kind", [LossCase, DiceLossCase])
def test_losses_agree_and_take_steps(kind):
    case = kind(**CASE, batch=2, classes=7)
    entered, _ = build_contestants(case, lambda name: "compile" not in name)
    names = ["fpn_neck", "resize + loss", "fpn_neck, plain"]
    assert [c.name for c in entered if "channels_last" not in c.name] == names
    for c in entered:
        c.step()
        assert c.error < 1e-6
    value, gradient = {}, {}
    for name, module in {
        "ours": case.ours(),
        "theirs": case.others(None)["resize + loss"](),
    }.items():
        (logits,) = case.inputs()
        value[name] = module([logits.requires_grad_()])[0]
        (gradient[name],) = torch.autograd.grad(value[name], logits)
    assert value["ours"].item() > 0.5
    torch.testing.assert_close(gradient["ours"], gradient["theirs"], atol=1e-7, rtol=1e-4)
    assert LossCase(**CASE).truth().eq(255).any()


@pytest.mark.parametrize("precision", ["bfloat16", "amp"])
def test_short_precisions_run_the_arithmetic_in_bfloat16(precision):
    case = NeckCase(**CASE, precision=precision)
    entered, _ = build_contestants(case, lambda name: name == "fpn_neck, plain")
    (contestant,) = entered
    assert case.inputs()[0].dtype == (torch.float32 if precision == "amp" else torch.bfloat16)
    assert all(y.dtype == torch.bfloat16 for y in contestant.run())
    contestant.step()
    assert 1e-4 < contestant.error < 2e-2


def test_the_plain_contestant_takes_no_fast_path():
    case = NeckCase("resnet50", 512, 512)
    entered, _ = build_contestants(case, lambda name: name in ("fpn_neck", "fpn_neck, plain"))
    outs = [c.run() for c in entered]
    assert [c.name for c in entered] == ["fpn_neck", "fpn_neck, plain"]
    assert not torch.equal(outs[0][0], outs[1][0])
    torch.manual_seed(0)  # the same weights
    with torch.no_grad(), fast.enable(False):
        assert torch.equal(case.ours()(case.inputs())[0], outs[1][0])


def test_a_failing_contestant_can_be_left_out():
    def fails():
        raise RuntimeError("no memory")

    works = measure.Contestant("works", list)
    missing = measure.run(
        [measure.Contestant("fails", fails), works], "forward", 2, "wall", keep_going=True
    )
    assert missing == ["fails: forward FAILED, RuntimeError: no memory"]
    assert len(works.seconds["forward"]) == 2
    with pytest.raises(RuntimeError, match="no memory"):
        measure.run([measure.Contestant("fails", fails)], "forward", 2, "wall")

    class WithAWrongOne(NeckCase):
        def others(self, ours):
            return {"mmdet": lambda: NeckCase("resnet50", 64, 96).ours()}

    entered, missing = build_contestants(
        WithAWrongOne(**CASE), lambda name: name in ("fpn_neck", "mmdet"), keep_going=True
    )
    assert [c.name for c in entered] == ["fpn_neck"] and missing[0].startswith("mmdet: FAILED")


def test_every_goal_is_about_something_measured():
    contestants = {m.name: m.contestants for m in MEASUREMENTS}
    modes = {m.name: m.modes for m in MEASUREMENTS}
    for goal in GOALS:
        assert goal.mode in modes[goal.measurement]
        assert {*goal.ours, *goal.others} <= set(contestants[goal.measurement])


def test_goals_by_hand():
    def row(name, milliseconds, mebibytes):
        seconds = {"median": milliseconds / 1e3}
        return {"name": name, "seconds": seconds, "peak_bytes": mebibytes * 2**20}

    rows = [row("fpn_neck", 30, 500), row("fpn_neck, plain", 70, 1000), row("mmseg", 50, 1000)]
    rows.append(row("fpn_neck, channels_last", 1, 1))  # mmseg is not given that layout either
    step = {"measurement": "segmenter, lite0", "mode": "step", "rows": rows}
    lines = goal_table([step]).splitlines()
    assert "| training step, lite0 | fpn_neck 30 ms | mmseg 50 ms | 0.60 | <= 0.75 | yes |" in lines
    assert (
        "| training step, lite0 | fpn_neck 500 MiB | mmseg 1000 MiB | 0.50 | <= 0.45 | NO |"
        in lines
    )
    plain = "| segmenter, lite0, step | fpn_neck, plain 70 ms | mmseg 50 ms | 1.40 | <= 1.05 | NO |"
    assert plain in lines and lines[-1] == "fpn_neck, plain: 1 of 2 ratios are <= 1.05"
    (missing,) = (line for line in lines if line.startswith("| training step, ResNet-50"))
    assert "not measured" in missing


def test_segmenters_train_on_one_loss():
    for name in ("mmseg", "timm"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    case = SegmenterCase(**CASE, batch=2, classes=7)
    ours = case.ours().train()
    theirs = case.others(ours)["mmseg"]().train()
    losses = [module(case.inputs())[0] for module in (ours, theirs)]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-5)


def test_work_of_a_head_by_hand():
    work = HeadCase("resnet50", 32, 64, classes=5).work()
    towers = 8 * 16 * (256 + 0) + 4 * 8 * 256 + 2 * 4 * (256 + 4 * 128) + 2 * (256 + 20 * 128)
    assert work["multiply_adds"] == towers * 9 * 128 + 8 * 16 * 128 * 5


def test_a_contestant_that_computes_something_else_is_refused():
    expected = [torch.ones(1, 2, 3, 3)]
    assert check(measure.Contestant("same", lambda: expected), expected) == 0
    for wrong in (torch.full((1, 2, 3, 3), 1.01), torch.ones(1, 2, 3, 4), expected[0] * torch.nan):
        with pytest.raises(ArithmeticError, match="other"):
            check(measure.Contestant("other", lambda y=wrong: [y]), expected)


def test_work_is_counted_by_hand():
    work = NeckCase("resnet50", 32, 64, batch=3).work()
    pixels = [3 * h * w for h, w in ((8, 16), (4, 8), (2, 4), (1, 2))]
    channels = (256, 512, 1024, 2048)
    pairs = list(zip(pixels, channels, strict=True))
    assert work["multiply_adds"] == sum(p * 256 * (c + 9 * 256) for p, c in pairs)
    assert work["bytes"] == sum(4 * p * (c + 256) for p, c in pairs)


def test_calls_are_measured_in_turn():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.01))}
    seconds = measure.interleave(calls, 3, "wall")
    assert order == ["a", "a", "b", "b"] * 5  # two rounds of warm-up; the first of two is not timed
    assert len(seconds["a"]) == len(seconds["b"]) == 3
    assert min(seconds["b"]) >= 0.01 > max(seconds["a"])


def test_peak_memory_counts_what_is_freed_again():
    size = 64 << 20

    def call():
        torch.ones(size // 4).sum()
        return torch.ones(16)

    peak = measure.peak_memory(call)
    assert peak is None or abs(peak - size) < 8 << 20  # the kernel counts in batches


def test_busy_programs_end_with_the_measurement():
    def children():
        tasks = Path("/proc/self/task")
        if not tasks.exists():
            pytest.skip("only Linux lists the children of a process")
        return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}

    before = children()
    with pytest.raises(ZeroDivisionError), measure.busy_programs(2):
        assert len(children() - before) == 2
        raise ZeroDivisionError
    assert children() == before


def test_report(tmp_path):
    contestants = [
        measure.Contestant("mmdet", list, error=1e-7, seconds={"forward": [0.4, 0.5, 0.6]}),
        measure.Contestant("fpn_neck", list, error=1e-6, seconds={"forward": [0.1, 0.25, 0.3]}),
        measure.Contestant("cannot step", list),
    ]
    results = report.result("case", "forward", contestants, {"arithmetic": 0.125}, batch=2)
    first, second = results["rows"]
    assert (first["name"], second["name"]) == ("fpn_neck", "mmdet")
    assert first["images_per_s"] == 8 and first["to_arithmetic"] == 2
    assert "| mmdet | 500.0 | 450.0 - 550.0 | 400.0 | 600.0 | 2.00 | 4.00 |" in report.table(
        results
    )
    report.save(tmp_path, {"threads": 1}, [results])
    assert json.loads((tmp_path / "benchmark.json").read_text())["results"] == [results]
    assert (tmp_path / "benchmark.md").read_text().startswith("{'threads': 1}")


def test_a_sweep_measures_each_layout_and_mode():
    ratios = list(sweep([(64, 96)], [32, 64], [2], ["forward", "step"], 2, "wall"))
    modes = [(r.width, r.mode, r.layout) for r in ratios]
    layouts = ["contiguous", "channels_last"]
    assert modes == [(w, m, y) for w in (32, 64) for m in ("forward", "step") for y in layouts]
    assert all(r.ours > 0 and r.torchs > 0 and r.batch == 2 for r in ratios)


@pytest.mark.parametrize(
    ("ours", "least", "calls"), [([2], 2, 1), ([3, 2], 2, 2), ([4, 3, 5, 2], 3, 3)]
)
def test_a_sweep_measures_again_what_seems_slower(ours, least, calls, monkeypatch):
    measured = []

    def run(contestants, mode, rounds, clock):
        seconds = ours[len(measured)]
        measured.append(mode)
        for c in contestants:
            c.seconds[mode] = [2 if PLAIN in c.name else seconds]

    monkeypatch.setattr(necks, "run", run)
    ratios = list(sweep([(64, 64)], [32], [1], ["forward"], 2, "wall"))
    assert [(r.ours, r.torchs) for r in ratios] == [(least, 2)] * 2
    assert len(measured) == calls


@pytest.mark.parametrize(("ours", "code"), [(0.0103, 0), (0.0104, 1)])
def test_a_sweep_fails_where_ours_is_slower(ours, code, capsys):
    slow = Ratio((64, 96), 32, 2, "forward", "contiguous", ours, 0.01)
    assert print_sweep([slow, slow._replace(ours=0.005)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 64x96 | 32 | 2 | forward | contiguous | 10.")
    assert lines[-1] == f"{code} ratios are above 1.03"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_mmsegs_logits_and_losses(name):
    for package in ("mmseg", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    ours, theirs = (c.step() for c in build_recipe(name))  # raises if logits differ
    assert ours.keys() == theirs.keys()
    loss = float(ours["decode.loss_ce"])
    # Ours are at half the size.
    assert loss == pytest.approx(float(theirs["decode.loss_ce"]), rel=0.02)


def test_an_iteration_is_measured():
    pytest.importorskip("mmseg", reason="mmseg is not installed")
    found = measure_recipe("demo", rounds=2, clock="cpu")
    assert all(s > 0 for s in found.seconds) and str(found).startswith("| demo | ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", 1], ["--rounds: at least 2"]),
        (["--load", -1], ["--load: at least 0"]),
        (["--sweep", "--sizes", "0x64"], ["--sizes 0x64: expected HEIGHTxWIDTH", "e.g. 800x1216"]),
        (["--sweep", "--sizes", "²x2"], ["--sizes ²x2: expected HEIGHTxWIDTH"]),
        (["--case", "resnet50:512"], ["--case 512: expected HEIGHTxWIDTH"]),
        (["--recipes", "demo", "--device", "cuda"], ["--recipes", "measure the CPU"]),
    ],
    ids=str,
)
def test_mistakes_are_one_line(call_tool, assert_refused, arguments, words):
    assert_refused(call_tool("benchmark", *arguments), *words)
