"""Change of the time of a block between two runs, as far as the spread of its durations allows to say.

Medians of two runs of one program differ by some percent even where every block of a run takes the same time: memory is
laid out differently, and the processor is warmer. A change is therefore called one only if its interval lies beyond that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BETWEEN_RUNS = 0.1
"""Share by which medians of one block may differ between runs of the same program."""
MIN_BLOCKS = 8
"""Number of blocks in each recording below which nothing is said."""

TimeVerdict = Literal["faster", "slower", "same", "unknown"]


@dataclass(frozen=True)
class TimeChange:
    """Ratio of the later median to the earlier one, with a 95 % interval; below 1 is faster.

    ``same`` means that the interval lies within what runs of the same program differ by, ``unknown`` that it says nothing.
    """

    verdict: TimeVerdict
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


NOT_COMPARED = TimeChange("unknown")


def compare_times(before: Sequence[float], after: Sequence[float]) -> TimeChange:
    """Compare the durations of a block's executions in two recordings."""
    if min(len(before), len(after)) < MIN_BLOCKS:
        return NOT_COMPARED
    (old_low, old, old_high), (new_low, new, new_high) = bound_median(before), bound_median(after)
    if old_low <= 0 or old <= 0:
        return NOT_COMPARED
    low, ratio, high = new_low / old_high, new / old, new_high / old_low
    return TimeChange(_judge(low, high), ratio, low, high)


def _judge(low: float, high: float) -> TimeVerdict:
    if high < 1 - BETWEEN_RUNS:
        return "faster"
    if low > 1 + BETWEEN_RUNS:
        return "slower"
    return "same" if low >= 1 - BETWEEN_RUNS and high <= 1 + BETWEEN_RUNS else "unknown"


def bound_median(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median between the ends of its 95 % interval, by the order of the values and not by their spread."""
    ordered = sorted(values)
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low, high = max(math.floor(count / 2 - reach), 0), min(math.ceil(count / 2 + reach), count - 1)
    return ordered[low], (ordered[(count - 1) // 2] + ordered[count // 2]) / 2, ordered[high]
