"""Sentences that follow from a comparison: advice for each workload, and warnings about noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from gradprobe.analysis.comparison_outcome import BASELINE, ArmResult, ComparisonOutcome, WorkloadResult

BUDGET_SETTING: Final = "budget_s (--max-time)"
"""Name of the measuring time in Python and, in parentheses, on the command line."""
NOISY_CONTROL: Final = 0.01
"""Largest distance of the control's interval from no difference, as a log ratio, that is not called noisy."""


def write_advice(result: WorkloadResult, mode: str = "inference_mode") -> str:
    """Return whether to replace `no_grad` by ``mode`` in this workload, and why, in one or two sentences."""
    arm, baseline = result.arm(mode), result.arm(BASELINE)
    if arm is None or baseline is None:
        return f"{mode} was not measured."
    if all(one.error == arm.error for one in result.arms) and arm.error:
        return f"fails in every mode: {arm.error}."
    if baseline.error:
        return f"no_grad is unusable here ({baseline.error}), so there is no baseline to compare with."
    if arm.error:
        return f"{mode} is unusable here: {arm.error}."
    if arm.differs:
        return f"{mode} returns different values here ({arm.difference}): find out why before replacing no_grad."
    if math.isnan(arm.ci_low):
        return f"undecided: the budget ended after fewer than two observations; increase {BUDGET_SETTING}."
    if arm.verdict == "faster":
        interval = f"(95 % CI {(1 - arm.ci_high) * 100:.1f} to {(1 - arm.ci_low) * 100:.1f} %)"
        saved = f"{mode} is {(1 - arm.ratio) * 100:.1f} % faster {interval}"
        return f"{saved}{_describe_savings(arm, baseline)}.{_describe_escapes(result, arm)}"
    if arm.verdict == "slower":
        interval = f"(95 % CI {(arm.ci_low - 1) * 100:.1f} to {(arm.ci_high - 1) * 100:.1f} %)"
        return f"{mode} is {(arm.ratio - 1) * 100:.1f} % slower {interval}: keep no_grad."
    interval = f"(95 % CI {format_percent_change(arm.ci_low)} to {format_percent_change(arm.ci_high)})"
    if arm.verdict == "equivalent":
        return f"{mode} makes no relevant difference {interval}: {_explain_equivalence(arm, baseline)}."
    return f"undecided {interval}: increase {BUDGET_SETTING}, or measure on a machine with less noise."


def format_percent_change(ratio: float) -> str:
    """Return a ratio as a signed percentage of change."""
    return f"{(ratio - 1) * 100:+.1f} %"


def _describe_savings(arm: ArmResult, baseline: ArmResult) -> str:
    saved = [
        (baseline.tracked_views - arm.tracked_views, "tracked view"),
        (baseline.counters_created - arm.counters_created, "version counter"),
        (baseline.version_bumps - arm.version_bumps, "version bump"),
    ]
    parts = [f"{number:,.0f} fewer {noun}{'' if number == 1 else 's'}" for number, noun in saved if number > 0]
    return f": {' and '.join(parts[:2])} per call" if parts else ""


def _describe_escapes(result: WorkloadResult, arm: ArmResult) -> str:
    escapes = [note for note in result.notes if note.startswith("leaves ")]
    if escapes:
        return f" But it {escapes[0]}."
    if math.isnan(arm.inference_tensors):
        return ""  # the call was not recorded
    return " No inference tensors escape except the return value."


def _explain_equivalence(arm: ArmResult, baseline: ArmResult) -> str:
    explained = abs(sum(arm.explained_ns.values()))
    if arm.explained_ns and explained < 0.01 * baseline.median_ns:
        return "kernels dominate the call"
    return "its savings are small compared with the rest of the call"


def find_noise_warnings(outcome: ComparisonOutcome) -> list[str]:
    """Return what a reader must know before believing the numbers, with remedies."""
    noisy = [
        (_measure_noise(result.control), result.control, result.workload)
        for result in outcome.workloads
        if result.control is not None and result.control.ci_low > 0
    ]
    noisy = [one for one in noisy if one[0] > NOISY_CONTROL]
    if not noisy:
        return []
    _, control, workload = max(noisy, key=lambda one: one[0])
    where = f" on {workload}"
    if len(noisy) > 1:
        where += f", and exceeded 1 % on {len(noisy)} of {len(outcome.workloads)} workloads"
    return [
        f"The machine is noisy: no_grad measured against itself differed by {format_percent_change(control.ci_low)} to "
        f"{format_percent_change(control.ci_high)}{where}.{_describe_causes(outcome.environment)} Increase "
        f"{BUDGET_SETTING}, close other programs, fix the clock frequency, or use fewer threads than cores."
    ]


def _measure_noise(arm: ArmResult) -> float:
    return max(abs(math.log(arm.ci_low)), abs(math.log(arm.ci_high)))


def _describe_causes(environment: Mapping[str, Any]) -> str:
    causes = []
    load, cpus = environment.get("load_average"), environment.get("cpus")
    if load is not None and cpus and load > 0.5 * cpus:
        causes.append(f"the load average was {load:.1f} on {cpus} processors before the comparison began")
    governor = environment.get("cpu_governor")
    if governor not in (None, "performance"):
        causes.append(f"the clock frequency follows the load (governor {governor})")
    return f" Likely causes: {'; '.join(causes)}." if causes else ""
