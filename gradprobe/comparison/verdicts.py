"""Verdicts: results of workloads from their measurements, with ratios, intervals and explained differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from gradprobe.analysis.comparison_outcome import NAN, UNUSABLE, ArmResult, WorkloadResult
from gradprobe.comparison import measured_modes
from gradprobe.comparison.experiment import MeasuredWorkload
from gradprobe.comparison.measure.bench_protocol import PreparationFacts
from gradprobe.comparison.measure.mechanisms import MECHANISM_NAMES
from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.state.outputs import OutputDifference
from gradprobe.comparison.stats.cost_model import CostDifference, MechanismCosts, fit_costs
from gradprobe.comparison.stats.intervals import (
    UNDECIDED,
    Estimate,
    compute_log_ratios,
    decide_verdict,
    estimate_ratio,
)

MAX_NAMED_OPERATORS = 3


def judge_workload(
    measured: MeasuredWorkload, settings: ComparisonSettings, costs: MechanismCosts | None
) -> WorkloadResult:
    """Return the result of one workload."""
    has_control = measured_modes.CONTROL in measured.arms
    control = measured.ratio(measured_modes.CONTROL, settings.seed) if has_control else estimate_ratio([], seed=0)
    facts = measured.facts or PreparationFacts()
    notes = [*facts.notes, *_note_escapes(measured), *_note_other_operators(measured), *measured.notes]
    if measured.crash:
        notes.append(measured.crash)
    return WorkloadResult(
        measured.name,
        tuple(_judge_arm(measured, mode, control, settings, costs) for mode in settings.modes),
        _summarize_times(measured, measured_modes.CONTROL, control, UNDECIDED) if has_control else None,
        calls=facts.calls,
        processes=sum(any(times.values()) for times in measured.times.values()),
        issued=measured.issued,
        notes=tuple(dict.fromkeys(notes)),
    )


def _note_escapes(measured: MeasuredWorkload) -> list[str]:
    account = measured.account.get(measured_modes.INFERENCE, {})
    left, held = account.get("left_behind", 0), account.get("held_by", ())
    by = f", referenced by {', '.join(held)}" if held else ""
    return [f"leaves {left} inference tensor{'' if left == 1 else 's'} behind{by}"] if left else []


def _note_other_operators(measured: MeasuredWorkload) -> list[str]:
    """Note operators that grad mode replaces by others."""
    kinds = {
        arm: set(measured.account.get(arm, {}).get("kinds", ()))
        for arm in (measured_modes.BASELINE, measured_modes.GRAD)
    }
    missing = sorted(kinds[measured_modes.BASELINE] - kinds[measured_modes.GRAD])
    if not missing or not kinds[measured_modes.GRAD]:
        return []
    named = ", ".join(missing[:MAX_NAMED_OPERATORS]) + (" and others" if len(missing) > MAX_NAMED_OPERATORS else "")
    return [f"takes another path under grad, without {named}: other kernels are part of that difference"]


def fit_mechanism_costs(mixtures: Sequence[MeasuredWorkload]) -> MechanismCosts | None:
    """Return the cost of each mechanism, fitted from differences of the mixtures between modes; None without any."""
    differences = []
    for mixture in mixtures:
        times = next(iter(mixture.times.values()))
        baseline = mixture.mechanisms.get(measured_modes.BASELINE)
        for arm, counts in mixture.mechanisms.items():
            if arm != measured_modes.BASELINE and baseline is not None and times.get(arm):
                ns = statistics.median(times[arm]) - statistics.median(times[measured_modes.BASELINE])
                differences.append(CostDifference(_subtract(counts, baseline), ns))
    return fit_costs(differences) if differences else None


def _subtract(counts: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    return {name: counts[name] - baseline[name] for name in MECHANISM_NAMES}


def _judge_arm(
    measured: MeasuredWorkload,
    mode: str,
    control: Estimate,
    settings: ComparisonSettings,
    costs: MechanismCosts | None,
) -> ArmResult:
    facts = measured.facts or PreparationFacts()
    error = facts.errors.get(mode) or measured.crash
    if error or mode not in measured.arms:
        return ArmResult(mode, UNUSABLE, error=error or "it was not measured")
    is_baseline = mode == measured_modes.BASELINE
    ratio = measured.ratio(mode, settings.seed)
    verdict = "baseline" if is_baseline else decide_verdict(ratio, control, settings.precision)
    counts, account = measured.mechanisms.get(mode, {}), measured.account.get(mode, {})
    difference = facts.differences.get(mode, OutputDifference())
    explained = {}
    baseline = measured.mechanisms.get(measured_modes.BASELINE)
    if costs is not None and counts and baseline and not is_baseline:
        explained = {name: ns for name, ns in costs.apply_to(_subtract(counts, baseline)).items() if ns}
    return replace(
        _summarize_times(measured, mode, ratio, verdict),
        nodes=counts.get("nodes", NAN),
        counters_created=counts.get("counters", NAN),
        version_bumps=counts.get("bumps", NAN),
        tracked_views=counts.get("tracked_views", NAN),
        saved_tensors=counts.get("saved_tensors", NAN),
        saved_bytes=account.get("saved_bytes", NAN),
        inference_tensors=account.get("inference_tensors", NAN),
        operators=account.get("operators", NAN),
        instructions=measured.instructions.get(mode, NAN),
        explained_ns=explained,
        difference=difference.text,
        differs=difference.matters,
    )


def _summarize_times(measured: MeasuredWorkload, arm: str, ratio: Estimate, verdict: str) -> ArmResult:
    times = [taken[arm] for taken in measured.times.values() if taken.get(arm)]
    ratios = [
        statistics.median(compute_log_ratios(taken[arm], taken[measured_modes.BASELINE]))
        for taken in measured.times.values()
        if taken.get(arm) and taken.get(measured_modes.BASELINE)
    ]
    has_interval = math.isfinite(ratio.half_width)
    return ArmResult(
        arm,
        verdict,
        median_ns=statistics.median(statistics.median(values) for values in times) if times else NAN,
        ratio=math.exp(ratio.value),
        ci_low=math.exp(ratio.low) if has_interval else NAN,
        ci_high=math.exp(ratio.high) if has_interval else NAN,
        rounds=sum(map(len, times)),
        process_ratios=tuple(map(math.exp, ratios)),
    )
