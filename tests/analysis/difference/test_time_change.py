"""A change of time is called one only beyond the spread of the blocks and beyond what runs differ by."""

from __future__ import annotations

import random

import pytest

from gradprobe.analysis.difference.time_change import compare_times


def around(middle: float, spread: float, count: int = 100) -> list[float]:
    return [middle * (1 + spread * (index / (count - 1) - 0.5)) for index in range(count)]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (around(100, 0.1), around(200, 0.1), "slower"),
        (around(100, 0.1), around(50, 0.1), "faster"),
        (around(100, 0.1), around(102, 0.1), "same"),
        (around(100, 0.1), around(112, 0.1), "unknown"),
        (around(100, 3.0), around(130, 3.0), "unknown"),
        (around(100, 0.1, 7), around(200, 0.1), "unknown"),
        ([0.0] * 50, [5.0] * 50, "unknown"),
    ],
)
def test_the_verdict(before: list[float], after: list[float], verdict: str) -> None:
    assert compare_times(before, after).verdict == verdict


def test_the_interval_has_the_true_ratio_at_least_as_often_as_it_says() -> None:
    source = random.Random(3)
    hits = 0
    for _ in range(200):
        before, after = ([source.lognormvariate(0, 0.5) * scale for _ in range(40)] for scale in (10, 12))
        change = compare_times(before, after)
        assert change.low is not None
        assert change.high is not None
        hits += change.low <= 1.2 <= change.high
    assert hits >= 190
