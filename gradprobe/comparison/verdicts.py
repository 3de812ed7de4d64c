"""From what was measured to records: ratios, intervals, verdicts, and what the mechanisms explain."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from gradprobe.analysis.comparison_outcome import NAN, UNUSABLE, ArmResult, WorkloadResult
from gradprobe.comparison import measured_modes
from gradprobe.comparison.experiment import MeasuredWorkload
from gradprobe.comparison.measure.bench_protocol import PreparationFacts
from gradprobe.comparison.measure.mechanisms import MECHANISM_NAMES
from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.state.outputs import OutputDifference
from gradprobe.comparison.stats.cost_model import CostDifference, MechanismCosts, fit_costs
from gradprobe.comparison.stats.intervals import UNDECIDED, Estimate, compute_log_ratios, decide_verdict, estimate_ratio


def judge_workload(
    measured: MeasuredWorkload, settings: ComparisonSettings, costs: MechanismCosts | None
) -> WorkloadResult:
    """The record of one workload."""
    control = (
        measured.ratio(measured_modes.CONTROL, settings.seed) if measured_modes.CONTROL in measured.arms else _nothing()
    )
    found = tuple(_arm(measured, mode, control, settings, costs) for mode in settings.modes)
    again = (
        _timed(measured, measured_modes.CONTROL, control, UNDECIDED)
        if measured_modes.CONTROL in measured.arms
        else None
    )
    facts = measured.facts or PreparationFacts()
    notes = [*facts.notes, *_left_behind(measured), *_other_operators(measured), *measured.notes]
    if measured.crash:
        notes.append(measured.crash)
    return WorkloadResult(
        measured.name,
        found,
        again,
        calls=facts.calls,
        processes=sum(any(times.values()) for times in measured.times.values()),
        issued=measured.issued,
        notes=tuple(dict.fromkeys(notes)),
    )


def _left_behind(measured: MeasuredWorkload) -> list[str]:
    account = measured.account.get(measured_modes.INFERENCE, {})
    left, held = account.get("left_behind", 0), account.get("held_by", ())
    by = f", held by {', '.join(held)}" if held else ""
    return [f"leaves {left} inference tensor{'' if left == 1 else 's'} behind{by}"] if left else []


def _other_operators(measured: MeasuredWorkload) -> list[str]:
    """Under inference mode composite operators come whole, so that names tell nothing there."""
    kinds = {
        arm: set(measured.account.get(arm, {}).get("kinds", ()))
        for arm in (measured_modes.BASELINE, measured_modes.GRAD)
    }
    only = sorted(kinds[measured_modes.BASELINE] - kinds[measured_modes.GRAD])
    if not only or not kinds[measured_modes.GRAD]:
        return []
    named = ", ".join(only[:3]) + (" and others" if len(only) > 3 else "")
    return [f"takes another path under grad, without {named}: other kernels are part of that difference"]


def fit_mechanism_costs(mixtures: Sequence[MeasuredWorkload]) -> MechanismCosts | None:
    """The cost of each mechanism, from the mixtures' differences between modes; None where there are none."""
    differences = []
    for mixture in mixtures:
        times = next(iter(mixture.times.values()))
        baseline = mixture.mechanisms.get(measured_modes.BASELINE)
        for arm, counts in mixture.mechanisms.items():
            if arm != measured_modes.BASELINE and baseline is not None and times.get(arm):
                ns = statistics.median(times[arm]) - statistics.median(times[measured_modes.BASELINE])
                differences.append(CostDifference(_less(counts, baseline), ns))
    return fit_costs(differences) if differences else None


def _less(counts: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    return {name: counts[name] - baseline[name] for name in MECHANISM_NAMES}


def _nothing() -> Estimate:
    return estimate_ratio([], seed=0)


def _arm(
    measured: MeasuredWorkload, mode: str, control: Estimate, settings: ComparisonSettings, costs: MechanismCosts | None
) -> ArmResult:
    facts = measured.facts or PreparationFacts()
    error = facts.errors.get(mode) or measured.crash
    if error or mode not in measured.arms:
        return ArmResult(mode, UNUSABLE, error=error or "it was not measured")
    ratio = measured.ratio(mode, settings.seed)
    said = UNDECIDED if mode == measured_modes.BASELINE else decide_verdict(ratio, control, settings.precision)
    arm = _timed(measured, mode, ratio, said)
    counts, account = measured.mechanisms.get(mode, {}), measured.account.get(mode, {})
    difference = facts.differences.get(mode, OutputDifference())
    explained = {}
    baseline = measured.mechanisms.get(measured_modes.BASELINE)
    if costs is not None and counts and baseline and mode != measured_modes.BASELINE:
        explained = {name: ns for name, ns in costs.of(_less(counts, baseline)).items() if ns}
    return ArmResult(
        **{
            **vars(arm),
            "verdict": "baseline" if mode == measured_modes.BASELINE else said,
            "nodes": counts.get("nodes", NAN),
            "counters_created": counts.get("counters", NAN),
            "version_bumps": counts.get("bumps", NAN),
            "tracked_views": counts.get("tracked_views", NAN),
            "saved_tensors": counts.get("saved_tensors", NAN),
            "saved_bytes": account.get("saved_bytes", NAN),
            "inference_tensors": account.get("inference_tensors", NAN),
            "operators": account.get("operators", NAN),
            "instructions": measured.instructions.get(mode, NAN),
            "explained_ns": explained,
            "difference": difference.text,
            "differs": difference.matters,
        }
    )


def _timed(measured: MeasuredWorkload, arm: str, ratio: Estimate, said: str) -> ArmResult:
    times = [taken[arm] for taken in measured.times.values() if taken.get(arm)]
    ratios = [
        statistics.median(compute_log_ratios(taken[arm], taken[measured_modes.BASELINE]))
        for taken in measured.times.values()
        if taken.get(arm) and taken.get(measured_modes.BASELINE)
    ]
    is_known = math.isfinite(ratio.half_width)
    return ArmResult(
        arm,
        said,
        median_ns=statistics.median(statistics.median(values) for values in times) if times else NAN,
        ratio=math.exp(ratio.value),
        ci_low=math.exp(ratio.low) if is_known else NAN,
        ci_high=math.exp(ratio.high) if is_known else NAN,
        rounds=sum(map(len, times)),
        process_ratios=tuple(map(math.exp, ratios)),
    )
