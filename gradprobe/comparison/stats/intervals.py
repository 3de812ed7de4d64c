"""Intervals and verdicts from paired times, on logarithms, on which a factor and its inverse weigh the same.

Rounds of one process share its memory layout, and layouts differ between processes by as much as modes do. So a process
counts as one observation, the median of its rounds, and the interval is over processes: the standard interval of the
mean, with a bootstrapped standard error and Student's t for few observations (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapters 6 and 12). Percentile intervals of five observations are too narrow by a third.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
SMALLEST_CLAIM: Final = math.log(1.01)
"""Smallest log ratio that is claimed as a difference, however narrow the interval: 1 %."""
SINGLE_PROCESS_BATCHES: Final = 10

FASTER: Final = "faster"
SLOWER: Final = "slower"
EQUIVALENT: Final = "equivalent"
UNDECIDED: Final = "undecided"


@dataclass(frozen=True)
class Estimate:
    """Log ratio with its interval."""

    value: float
    low: float
    high: float
    rounds: int
    """Number of pairs of times."""
    clusters: int
    """Number of observations: processes, or stretches of rounds of a single process."""

    @property
    def largest_deviation(self) -> float:
        """Larger distance of an end of the interval from no difference."""
        return max(abs(self.low), abs(self.high))

    @property
    def half_width(self) -> float:
        """Half-width of the interval."""
        return (self.high - self.low) / 2


def compute_log_ratios(times: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return the logarithm of the ratio of each pair."""
    return [math.log(one / other) for one, other in zip(times, baseline, strict=True)]


def estimate_ratio(processes: Sequence[Sequence[float]], *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Return the ratio over all processes, or over stretches of consecutive rounds of a single process."""
    filled = [rounds for rounds in processes if len(rounds)]
    clusters = filled if len(filled) > 1 else [s for rounds in filled for s in _split_rounds(rounds)]
    observed = np.array([np.median(cluster) for cluster in clusters])
    rounds = sum(map(len, filled))
    if len(observed) < 2:
        value = float(observed.mean()) if len(observed) else math.nan
        return Estimate(value, -math.inf, math.inf, rounds, len(observed))
    mean = float(observed.mean())
    half = compute_t_quantile(len(observed) - 1) * bootstrap_standard_error(observed, seed=seed, resamples=resamples)
    return Estimate(mean, mean - half, mean + half, rounds, len(observed))


def _split_rounds(rounds: Sequence[float]) -> list[Sequence[float]]:
    number = min(SINGLE_PROCESS_BATCHES, len(rounds))
    edges = [round(i * len(rounds) / number) for i in range(number + 1)] if number else []
    return [rounds[begin:end] for begin, end in pairwise(edges)]


def bootstrap_standard_error(observed: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> float:
    """Return the bootstrapped standard error of the mean, corrected by n/(n-1) for the bias of resampling."""
    number = len(observed)
    chosen = np.random.default_rng(seed).integers(0, number, (resamples, number))
    return float(observed[chosen].mean(axis=1).std(ddof=1) * math.sqrt(number / (number - 1)))


@lru_cache
def compute_t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return the two-sided quantile of Student's t, by Simpson's rule and bisection, to nine digits."""
    factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def inside(t: float) -> float:
        x = np.linspace(0.0, t, 2001)
        density = factor * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
        return float(2 * t / 6000 * (density[0] + density[-1] + 4 * density[1::2].sum() + 2 * density[2:-1:2].sum()))

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def decide_verdict(ratio: Estimate, control: Estimate, precision: float) -> str:
    """Return the verdict that the intervals of a mode and of the control allow.

    A difference is claimed if the whole interval is beyond 1 % and beyond the difference of the baseline to itself in the
    same run. `equivalent` requires the whole interval, and that of the control, within ``precision`` or 1 %, whichever is
    larger.
    """
    if not math.isfinite(ratio.half_width) or not math.isfinite(control.half_width):
        return UNDECIDED
    least = max(SMALLEST_CLAIM, control.largest_deviation)
    if ratio.high < -least:
        return FASTER
    if ratio.low > least:
        return SLOWER
    most = max(SMALLEST_CLAIM, math.log1p(precision))
    return EQUIVALENT if ratio.largest_deviation <= most and control.largest_deviation <= most else UNDECIDED
