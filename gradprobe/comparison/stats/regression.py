"""One comparison beside an earlier one: whether a ratio changed by more than the two intervals allow."""

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
    """A row per workload and mode of both. Raises ``GradprobeError`` where they cannot be compared, unless ``force``."""
    import pandas as pd

    apart = find_incompatibilities(now, before)
    if apart and not force:
        raise GradprobeError(f"the two were measured apart: {'; '.join(apart)}; measure both alike, or force it")
    earlier = {(c.workload, arm.mode): arm for c in before.workloads for arm in c.arms}
    rows = [
        _row(compared.workload, arm, earlier[compared.workload, arm.mode])
        for compared in now.workloads
        for arm in compared.arms
        if (compared.workload, arm.mode) in earlier
    ]
    counts = [f"{name}{when}" for name in _COUNTS for when in ("_before", "")]
    table: pd.DataFrame = pd.DataFrame(
        rows, columns=["workload", "mode", "ratio_before", "ratio", "change", "ci_low", "ci_high", "verdict", *counts]
    )
    return table


def find_incompatibilities(now: ComparisonOutcome, before: ComparisonOutcome) -> list[str]:
    """Why times of two comparisons do not compare."""
    apart = []
    for name, said in (("device", "device"), ("accelerator", "accelerator"), ("torch_threads", "threads of torch")):
        one, other = before.environment.get(name), now.environment.get(name)
        if one != other:
            apart.append(f"{said} {one} then, {other} now")
    minors = [".".join(str(outcome.environment.get("torch")).split(".")[:2]) for outcome in (before, now)]
    if minors[0] != minors[1]:
        apart.append(f"torch {minors[0]} then, {minors[1]} now")
    return apart


def _row(workload: str, now: ArmResult, before: ArmResult) -> dict[str, object]:
    change, half = math.log(now.ratio / before.ratio), math.hypot(_half(now), _half(before))
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
        "verdict": _verdict(change, half),
        **counts,
    }


def _half(arm: ArmResult) -> float:
    if arm.mode == "no_grad":
        return 0.0
    return (math.log(arm.ci_high) - math.log(arm.ci_low)) / 2


def _verdict(change: float, half: float) -> str:
    if math.isnan(change) or math.isnan(half):
        return UNDECIDED
    if change + half < -SMALLEST_CLAIM:
        return FASTER
    if change - half > SMALLEST_CLAIM:
        return SLOWER
    return EQUIVALENT if abs(change) + half <= 2 * SMALLEST_CLAIM else UNDECIDED
