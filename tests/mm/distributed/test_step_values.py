"""Numbers of several steps, read together; tests/cli/test_distributed.py has two processes."""

import math

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.device import get_device  # noqa: E402

from fpn_neck.mm.distributed.step_values import StepValues  # noqa: E402
from fpn_neck.mm.training.runtime_info_hook import RuntimeInfoHook  # noqa: E402


def test_numbers_are_those_that_item_gives():
    values = StepValues(9)
    numbers = {
        "float": torch.tensor(0.1),
        "one": torch.tensor([[0.2]]),
        "double": torch.tensor(0.3, dtype=torch.float64),
        "bfloat16": torch.tensor(0.4, dtype=torch.bfloat16),
        "whole": torch.tensor(7),
    }
    others = {"text": "abc", "map": torch.ones(2, 2)}
    for iteration in (1, 2):
        assert values.add(iteration, numbers | others) == others
    found, bad = values.read()
    assert found == [{name: value.item() for name, value in numbers.items()}] * 2
    assert bad is None and len(values) == 0


def test_no_graph_is_kept():
    values, x = StepValues(9), torch.ones(1, requires_grad=True)
    values.add(1, {"loss": x.sum()})
    values.check(1, "loss", x.sum(), "")
    step = values._steps[0]
    assert not step.losses["loss"].requires_grad and not step.checked["loss"].requires_grad


@pytest.mark.parametrize(
    ("bad", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_the_first_bad_value_is_found(bad, text):
    values = StepValues(9)
    for iteration in (1, 2, 3):
        is_bad = iteration > 1
        values.check(iteration, "loss", torch.tensor(bad if is_bad else 1.0), f"{iteration}.jpg")
        values.check(iteration, "norm", torch.tensor(math.nan if is_bad else 1.0), "other")
    for found in (values.first_bad(), values.read()[1]):  # the first one leaves the steps there
        assert (found.iteration, found.name, str(found.value)) == (2, "loss", text)
    assert values.first_bad() is None and values.last_read == 3


def test_a_value_that_is_only_logged_may_be_infinite():
    values = StepValues(9)
    values.add(1, {"grad_norm": torch.tensor(math.inf)})
    assert values.read() == ([{"grad_norm": math.inf}], None)


@pytest.mark.parametrize(
    ("interval", "at_once", "due"),
    [
        pytest.param(
            *(None, True, [1, 2, 3, 4]),
            marks=pytest.mark.skipif(get_device() != "cpu", reason="a GPU is read by time"),
        ),
        (1, True, [1, 2, 3, 4]),
        (3, False, [3]),
    ],
)
def test_a_cpu_reads_every_step_unless_it_is_told_otherwise(interval, at_once, due):
    values, found = StepValues(interval), []
    assert values.at_once is at_once
    for iteration in (1, 2, 3, 4):
        values.add(iteration, {"loss": torch.tensor(1.0)})
        if values.is_due:
            values.read()
            found.append(iteration)
            assert values.last_read == iteration
    assert found == due


@pytest.mark.parametrize("interval", [0, -1, 1.5, "2", True])
def test_a_wrong_interval_is_named(interval):
    with pytest.raises((TypeError, ValueError), match=f"interval={interval!r}"):
        RuntimeInfoHook(interval)


def test_a_value_that_is_written_over_later_is_kept():
    values, loss = StepValues(interval=2), torch.tensor(1.0)
    for iteration in (1, 2):
        loss.fill_(iteration)  # as a CUDA graph does
        values.add(iteration, {"loss": loss})
        values.check(iteration, "loss", loss, "a.jpg")
    loss.fill_(float("nan"))
    assert values.read() == ([{"loss": 1.0}, {"loss": 2.0}], None)
