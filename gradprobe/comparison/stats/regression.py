"""Comparison with an earlier comparison: which ratios changed by more than the two intervals allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradprobe.analysis.comparison_outcome import ArmResult, ComparisonOutcome
from gradprobe.comparison.stats.intervals import EQUIVALENT, FASTER, SLOWER, SMALLEST_CLAIM, UNDECIDED
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = ("nodes", "counters_created", "version_bumps", "tracked_views", "saved_bytes", "instructions")


def compare_outcomes(now: ComparisonOutcome, before: ComparisonOutcome, *, force: bool) -> pd.DataFrame:
    """Return a table with one row per workload and mode of both.

    Raises ``GradprobeError`` if they were measured under different conditions, unless ``force``.
    """
    import pandas as pd

    apart = find_incompatibilities(now, before)
    if apart and not force:
        raise GradprobeError(
            f"cannot compare: measured under different conditions ({'; '.join(apart)}); rerun under the same ones or "
            "pass force"
        )
    earlier = {(result.workload, arm.mode): arm for result in before.workloads for arm in result.arms}
    rows = [
        _build_row(result.workload, arm, earlier[result.workload, arm.mode])
        for result in now.workloads
        for arm in result.arms
        if (result.workload, arm.mode) in earlier
    ]
    counts = [f"{name}{when}" for name in _COUNTS for when in ("_before", "")]
    table: pd.DataFrame = pd.DataFrame(
        rows, columns=["workload", "mode", "ratio_before", "ratio", "change", "ci_low", "ci_high", "verdict", *counts]
    )
    return table


def find_incompatibilities(now: ComparisonOutcome, before: ComparisonOutcome) -> list[str]:
    """Return why times of two comparisons cannot be result."""
    apart = []
    for name, label in (("device", "device"), ("accelerator", "accelerator"), ("torch_threads", "torch threads")):
        one, other = before.environment.get(name), now.environment.get(name)
        if one != other:
            apart.append(f"{label} {one} then, {other} now")
    minors = [".".join(str(outcome.environment.get("torch")).split(".")[:2]) for outcome in (before, now)]
    if minors[0] != minors[1]:
        apart.append(f"torch {minors[0]} then, {minors[1]} now")
    return apart


def _build_row(workload: str, now: ArmResult, before: ArmResult) -> dict[str, object]:
    change, half = math.log(now.ratio / before.ratio), math.hypot(_half_width(now), _half_width(before))
    counts = {f"{name}_before": getattr(before, name) for name in _COUNTS} | {
        name: getattr(now, name) for name in _COUNTS
    }
    return {
        "workload": workload,
        "mode": now.mode,
        "ratio_before": before.ratio,
        "ratio": now.ratio,
        "change": math.exp(change),
        "ci_low": math.exp(change - half),
        "ci_high": math.exp(change + half),
        "verdict": _judge_change(change, half),
        **counts,
    }


def _half_width(arm: ArmResult) -> float:
    if arm.mode == "no_grad":
        return 0.0
    return (math.log(arm.ci_high) - math.log(arm.ci_low)) / 2


def _judge_change(change: float, half: float) -> str:
    if math.isnan(change) or math.isnan(half):
        return UNDECIDED
    if change + half < -SMALLEST_CLAIM:
        return FASTER
    if change - half > SMALLEST_CLAIM:
        return SLOWER
    return EQUIVALENT if abs(change) + half <= 2 * SMALLEST_CLAIM else UNDECIDED
