"""Intervals and verdicts, against scipy, by simulation, and by claims that they must never make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.comparison.stats.intervals import (
    EQUIVALENT,
    FASTER,
    SLOWER,
    SMALLEST_CLAIM,
    UNDECIDED,
    Estimate,
    bootstrap_standard_error,
    compute_log_ratios,
    compute_t_quantile,
    decide_verdict,
    estimate_ratio,
)
from tests.thoroughness import IS_THOROUGH


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 200])
def test_the_quantile_of_students_t_is_scipys(degrees: int) -> None:
    stats: Any = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    assert compute_t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_the_bootstrapped_standard_error_is_scipys() -> None:
    stats: Any = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    observed = np.random.default_rng(0).normal(size=12)
    oracle = stats.bootstrap((observed,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1)).standard_error
    unbiased = oracle * math.sqrt(12 / 11)
    assert bootstrap_standard_error(observed, seed=0, resamples=20_000) == pytest.approx(unbiased, rel=0.03)


@pytest.mark.parametrize("kind", ["normal", "t5", "laplace"])
@pytest.mark.parametrize("processes", [5, 10])
def test_intervals_hold_the_truth_in_93_to_97_of_100_runs(kind: str, processes: int) -> None:
    random = np.random.default_rng(7)
    draw = {
        "normal": lambda: random.normal(size=processes),
        "t5": lambda: random.standard_t(5, size=processes),
        "laplace": lambda: random.laplace(size=processes),
    }[kind]
    runs = 3000 if IS_THOROUGH else 1000
    held = 0
    for seed in range(runs):
        found = estimate_ratio([[value] for value in draw()], seed=seed, resamples=500)
        held += found.low <= 0.0 <= found.high
    assert 0.93 <= held / runs <= 0.97  # the numbers are the same each time, so that chance has no part in it


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    rounds = np.random.default_rng(0).normal(size=(5, 20)).tolist()
    assert estimate_ratio(rounds, seed=3) == estimate_ratio(rounds, seed=3)
    assert estimate_ratio(rounds, seed=3).low != estimate_ratio(rounds, seed=4).low


def test_a_single_process_is_taken_in_stretches_and_a_single_round_decides_nothing() -> None:
    assert estimate_ratio([[0.1] * 40], seed=0).clusters == 10
    alone = estimate_ratio([[0.1]], seed=0)
    assert (alone.low, alone.high) == (-math.inf, math.inf)
    assert decide_verdict(alone, alone, 0.02) == UNDECIDED
    assert math.isnan(estimate_ratio([], seed=0).value)


def between(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 10, 5)


@pytest.mark.parametrize(
    ("ratio", "control", "expected"),
    [
        (between(-0.05, -0.03), between(-0.001, 0.001), FASTER),
        (between(0.03, 0.05), between(-0.001, 0.001), SLOWER),
        (between(-0.05, -0.03), between(-0.04, 0.001), UNDECIDED),
        (between(-0.009, -0.005), between(-0.001, 0.001), EQUIVALENT),
        (between(-0.03, -0.005), between(-0.001, 0.001), UNDECIDED),
        (between(-0.005, 0.005), between(-0.03, 0.03), UNDECIDED),
    ],
)
def test_each_verdict_follows_from_the_two_intervals(ratio: Estimate, control: Estimate, expected: str) -> None:
    assert decide_verdict(ratio, control, 0.02) == expected


ends = st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)).map(sorted)


@given(ends, ends, st.floats(0.001, 0.5))
def test_no_difference_is_claimed_within_1_percent_or_within_the_control(
    ratio: list[float], control: list[float], precision: float
) -> None:
    expected = decide_verdict(between(*ratio), between(*control), precision)
    least = max(SMALLEST_CLAIM, abs(control[0]), abs(control[1]))
    if expected in (FASTER, SLOWER):
        assert min(abs(end) for end in ratio) > least
        assert (ratio[0] > 0) == (expected == SLOWER)


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(1, 1e9)), min_size=1, max_size=20))
def test_swapping_the_sides_turns_the_sign_of_log_ratios(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    assert compute_log_ratios(one, other) == pytest.approx([-value for value in compute_log_ratios(other, one)])
