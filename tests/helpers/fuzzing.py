"""What all fuzz tests share: counted cases, a clock, wrong values, and what a refusal must say."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS = 120  # a case that takes longer hangs; the first one imports frameworks
RIGHT, REFUSED = "right", "refused"

# Of every type that a config can hold, and a few that only a program can.
JUNK = [None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**70, -(2**70), 0.5, 2.0, float("nan")]
JUNK += [float("inf"), "", "abc", "3", "\0", b"x", [], [0], [1], [2, "a"], [[3]], [None], (4, 4)]
JUNK += [{}, {"type": None}, {"type": "Nonsense"}, {"type": "ReLU", "no_such": 1}, {"a": [1]}]
JUNK += [{"type": 3}, {"type": ["ReLU"]}, {3: 4}, {"mode": "nonsense"}, {"mode": 3}, {1, 2}]
JUNK += [1j, object(), int, len, range(3), np.int64(2), np.float32(2), np.ones(2), torch.ones(2)]
junk = st.sampled_from(JUNK)


KEYS = ["type", "a", "align_corners", "bias", "eps", "inplace", "layer", "mode", "momentum"]
KEYS += ["affine", "distribution", "groups", "negative_slope", "padding", "requires_grad"]
KEYS += ["num_groups", "size", "std"]


def wrong(right: Any) -> st.SearchStrategy:
    """Any value, or a dict of settings with one of them set to any value."""
    if not isinstance(right, dict):
        return junk
    edited = st.builds(lambda key, value: right | {key: value}, st.sampled_from(KEYS), junk)
    return junk | edited


def search(examples: int, cases: st.SearchStrategy, check: Callable[[Any], str]) -> Counter[str]:
    """Check that many cases, the same ones at every run; returns how often each answer came."""
    answers: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Any) -> None:
        torch.manual_seed(0)
        with at_most(SECONDS):
            answers[check(case)] += 1

    run()
    return answers


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail if it takes longer."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def options_of(args: dict[str, Any], names: set[str]) -> set[str]:
    """Settings inside of wrong arguments; torch itself names them when it uses them."""
    return {key for name in names if isinstance(args[name], dict) for key in args[name]} - {"type"}


@contextmanager
def refusal_of(blamed: set[str]) -> Iterator[list[str]]:
    """Catch a ValueError or TypeError that names one of ``blamed``, and keep its text.

    Nothing else may be raised, and nothing at all where nothing is to blame.
    """
    caught: list[str] = []
    try:
        yield caught
    except (ValueError, TypeError) as error:
        text = str(error)
        assert blamed, f"right arguments were refused: {text}"
        assert any(name in text for name in blamed), f"names none of {blamed}: {text}"
        caught.append(text)
